"""One file a family: a table of rules."""
