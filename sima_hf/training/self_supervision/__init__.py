"""Self-supervision: DINO, for any image encoder."""
