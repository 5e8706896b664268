"""Training from a teacher's answers."""
