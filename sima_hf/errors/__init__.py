"""The exception types of sima_hf. Each is also a built-in one, so `except ValueError` keeps working."""

from collections.abc import Iterator


class SimAError(Exception):
    """Base class of everything sima_hf raises on purpose."""


class BackendError(SimAError, ValueError):
    """A backend that does not exist, or that cannot serve these inputs; the text says why and what can."""


class CalibrationError(SimAError, ValueError):
    """A calibration that cannot be carried out; the model is as it was, and the text says what to change."""


class CheckpointError(SimAError, ValueError):
    """A training checkpoint that is missing, damaged or of another run; the text names the last good one, if there is one."""


class ConversionError(SimAError, ValueError):
    """A checkpoint that is not what it should be; the text names the keys or the object at fault."""


class DataError(SimAError, ValueError):
    """Data that nothing can be trained or measured on; the text names what is wrong and where."""


class ExportError(SimAError, ValueError):
    """A model that cannot be exported, or a file that does not compute what the model does; the text says why."""


class MissingDependencyError(SimAError, ImportError):
    """An optional package that is not installed; the text ends in the pip command that installs it."""


class PublishError(SimAError, ValueError):
    """A model folder that cannot be published, or a Hub that did not take it; the text says why and what to do."""


class TrainingError(SimAError, RuntimeError):
    """A training run that cannot go on; the text says why and which checkpoint is the last good one."""


class UnsupportedModelError(SimAError, ValueError):
    """A model whose attention cannot be swapped; the text gives the reason, and what can be."""


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, outermost first."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
