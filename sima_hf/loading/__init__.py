"""A model by folder or Hub name, with readable errors."""
