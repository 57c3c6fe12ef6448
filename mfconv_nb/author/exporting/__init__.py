"""A family in the forms of other tools."""
