"""The weights of a checkpoint, back into the model that goes on from it."""

from pathlib import Path

from transformers import PreTrainedModel

from ...errors import CheckpointError


def load_weights(model: PreTrainedModel, folder: str | Path) -> None:
    """Load a checkpoint's weights through `from_pretrained`, which knows the names under which Transformers saves a model.

    Trainer's own way takes the names in the file as they are, warns of those it does not know, and goes on with other weights.

    Args:
        model: the bare model, in place.
        folder: as `save_pretrained` wrote it.

    Raises:
        CheckpointError: it holds another model.
    """
    loaded = type(model).from_pretrained(folder, dtype=model.dtype)
    try:
        model.load_state_dict(loaded.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder} holds another model than the one to be trained: {str(error).splitlines()[1].strip()}"
        ) from error
