"""A model on disk: which file is what, whole or not at all, weights and their hash, where it came from."""
