"""Closed-form refits that make a swapped model usable before any training."""
