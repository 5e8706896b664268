"""The WebDataset reader of `datasets`, for classes that are text too. Needs `datasets`: import it where it is used."""

from pathlib import Path

from datasets import Image
from datasets.packaged_modules.webdataset import webdataset


class WebDataset(webdataset.WebDataset):
    """Tar shards of images (`0001.jpg`) with classes (`0001.cls`, `0001.json`) beside them.

    The original takes whole numbers only in `.cls`; here it may be any text. The path of an image names its shard too.
    """

    DECODERS = {**webdataset.WebDataset.DECODERS, "cls": webdataset.text_loads}  # noqa: RUF012

    def _generate_examples(self, tar_paths, tar_iterators):
        images = [name for name, feature in self.info.features.items() if isinstance(feature, Image)]
        for key, example in super()._generate_examples(tar_paths, tar_iterators):
            for name in images:
                if example[name] is not None:
                    example[name]["path"] = f"{Path(example['__url__']).name}:{example[name]['path']}"
            yield key, example
