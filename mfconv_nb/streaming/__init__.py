"""The only place where weights move."""
