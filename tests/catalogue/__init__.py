"""The catalogue of messages: every sentence that a user can meet, provoked, in one file.

`tests/messages.txt` is that file. Each entry is what provoked the message, and what was said. Run
`python -m tests.catalogue` to write it again after a change, and read the diff. `tests/test_messages.py`
compares, and checks against the source that no message is missing.
"""
