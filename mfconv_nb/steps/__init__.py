"""What a user does, one room a verb."""
