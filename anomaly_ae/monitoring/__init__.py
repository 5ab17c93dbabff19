"""What a model remembers of normal rows, and how far rows that come later have moved away from it."""
