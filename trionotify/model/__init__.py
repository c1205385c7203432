"""The model: notifications, predicates, cursors and queries. No I/O, no Trio."""
