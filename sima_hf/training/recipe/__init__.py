"""The recipe: augmentation, losses, optimizer groups and schedule, weight averaging."""
