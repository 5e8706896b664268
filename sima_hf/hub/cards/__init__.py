"""Model cards: from the facts at hand, each figure with its file, merged with the README that is there."""
