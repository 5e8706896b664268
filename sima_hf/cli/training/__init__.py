"""`sima-hf train` and `sima-hf distill`: what the scripts in examples do, for who installed the package."""
