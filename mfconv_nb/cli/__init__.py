"""The command line: words become one call; one file a command in ``commands/``."""
