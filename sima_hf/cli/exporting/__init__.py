"""`sima-hf export`."""
