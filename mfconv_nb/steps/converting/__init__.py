"""The same numbers under the names and shapes of the other side; adapters merged into weights."""
