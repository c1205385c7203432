"""Benchmarks: `python -m benchmarks`. docs/performance.md says what they measure, and how."""
