"""What is said and what is wanted: notifications, predicates, cursors and queries. No I/O, no Trio."""
