"""Images from folders, shards and the Hub to batches; which image when, from a seed."""
