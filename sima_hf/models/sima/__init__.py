"""SimA's own architecture, in the files that Transformers' models have."""
