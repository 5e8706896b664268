"""Drawing without a screen."""

from ..errors import MissingDependencyError


def pyplot():
    """matplotlib's pyplot, drawing into files.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingDependencyError("Pictures need matplotlib: pip install 'sima-hf[plot]'") from error
    return plt
