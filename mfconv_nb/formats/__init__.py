"""One file a format: headers to specs and back. Moves no weight."""
