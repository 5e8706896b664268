"""The image processor of a model, by folder or Hub name."""

from pathlib import Path

from transformers import AutoConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..errors import CheckpointError
from ..models.sima.configuration_sima import SimAConfig
from ..models.sima.image_processing_sima import SimAImageProcessor
from .load_errors import refused_by_hub


def load_processor(name: str, **hub):
    """The image processor that a folder or Hub name holds; for a SimA model without one, the original's for its size.

    Args:
        name: folder or Hub name.
        hub: revision, token, trust_remote_code, as `from_pretrained`.

    Raises:
        CheckpointError: there is none, or the Hub or the way to it refuses.
    """
    try:
        return AutoImageProcessor.from_pretrained(name, **hub)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        try:
            config = AutoConfig.from_pretrained(name, **hub)
        except (OSError, ValueError):
            config = None
        if isinstance(config, SimAConfig):
            return SimAImageProcessor.for_image_size(config.image_size)
        trouble = None if Path(name).is_dir() else refused_by_hub(name, error, hub.get("revision"))
        raise CheckpointError(
            trouble
            or f"{name} comes without an image processor that can be loaded ({reason}). Save one beside the model: "
            "`processor.save_pretrained(folder)`."
        ) from error
