"""The exception types of sima_hf. Each is also a built-in one, so `except ValueError` keeps working."""


class SimAError(Exception):
    """Base class of everything sima_hf raises on purpose."""


class BackendError(SimAError, ValueError):
    """A backend that does not exist, or that cannot serve these inputs; the text says why and what can."""


class CalibrationError(SimAError, ValueError):
    """A calibration that cannot be carried out; the model is as it was, and the text says what to change."""


class ConversionError(SimAError, ValueError):
    """A checkpoint that is not what it should be; the text names the keys or the object at fault."""


class MissingDependencyError(SimAError, ImportError):
    """An optional package that is not installed; the text ends in the pip command that installs it."""


class UnsupportedModelError(SimAError, ValueError):
    """A model whose attention cannot be swapped; the text gives the reason, and what can be."""
