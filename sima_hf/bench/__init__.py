"""Time and memory of attention and whole models, side by side."""
