"""What a path holds: doctor, the bytes of a file, the list of families."""
