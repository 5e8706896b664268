"""The architectures of the package; each has a folder of its own."""
