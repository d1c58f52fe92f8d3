"""The command line: one file per command, each a thin layer over the verb of the same name."""
