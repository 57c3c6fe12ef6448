"""One file per family: a table of rules."""
