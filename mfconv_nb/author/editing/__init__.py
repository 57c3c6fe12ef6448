"""A draft as rows that are judged while they are edited."""
