"""Logs that outlive the process: where the entries of a durable log are kept.

To be read in this order: `faults`, what can go wrong with a file, and what to do then; `lock`, one
server at a time; `schema`, the file's tables, and how old ones become new; `database`, the file in
this process's hands; `epochs`, when offsets might be given twice; `rows`, what is stored of an entry;
`extent`, from where to where a file goes; `sqlite`, the log's entries in such a file.
"""
