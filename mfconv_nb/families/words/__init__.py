"""What families are written with: words that several of them share."""
