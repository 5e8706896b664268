"""The code that is published beside a model's weights."""
