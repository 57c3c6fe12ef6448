"""One file per format: headers to specs and back. Moves no weight."""
