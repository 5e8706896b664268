"""`python -m sima_hf.cli`, where the command `sima-hf` is not on the path."""

from .root import main


if __name__ == "__main__":
    main()
