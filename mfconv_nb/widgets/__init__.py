"""Views of results in a notebook: a table to filter and choose from, and an inspector beside it. Imported only inside a kernel."""
