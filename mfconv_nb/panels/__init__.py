"""The converter as a form in a notebook."""
