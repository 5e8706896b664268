"""`sima-hf evaluate` and `sima-hf embed`: a model runs over images."""
