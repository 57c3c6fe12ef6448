"""Mistakes made on purpose, and which check notices each."""
