"""Rules of other tools as families."""
