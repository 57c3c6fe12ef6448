"""Running a converter that somebody else wrote, in a process of its own."""
