"""The versions of torch and transformers that sima_hf supports, checked without importing either."""

from importlib.metadata import PackageNotFoundError, version

from ..errors import MissingDependencyError


# Lowest version supported, and the first that is not any more. setup.cfg says the same; a test holds them equal.
SUPPORTED = {"torch": ("2.11", None), "transformers": ("5.17", "6")}


def check_versions() -> None:
    """Raise `MissingDependencyError` (an ImportError) if torch or transformers is missing or of an unsupported version."""
    for package, (lowest, beyond) in SUPPORTED.items():
        wanted = f"{package}>={lowest}" + (f",<{beyond}" if beyond else "")
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = None
        if installed is None:
            raise MissingDependencyError(f"sima_hf needs {wanted}, which is not installed: pip install '{wanted}'")
        if _release(installed) < _release(lowest) or (beyond and _release(installed) >= _release(beyond)):
            raise MissingDependencyError(
                f"sima_hf needs {wanted}, but {package} {installed} is installed: pip install '{wanted}'"
            )


def _release(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: (5, 17) for 5.17.0.dev0, (2, 13) for 2.13.0+cpu. Enough for bounds X.Y."""
    numbers = []
    for part in text.split("+")[0].split(".")[:2]:
        digits = "".join(character for character in part if character.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
