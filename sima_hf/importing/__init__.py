"""What `import sima_hf` does: names at first use, version checks, and registration with Transformers as late as it can be."""
