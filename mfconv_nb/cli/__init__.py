"""The command line: words become one call; one file per command in ``commands/``."""
