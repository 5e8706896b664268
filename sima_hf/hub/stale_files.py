"""What a push takes out of a repository: files of an earlier model that readers would load in place of this one's, or with them.

Only names that Transformers itself looks for, beside config.json, and sima_hf's own code. All else there is its owner's and stays.
"""

import fnmatch
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..patching.remote_code.model_files import ATTENTION, NATIVE_FILES


# Patterns of names -> why a file that the push does not bring is taken out. A file is any model's own, whatever wrote it, if
# `from_pretrained` would find it by its name: model.safetensors comes before an index of shards, an index before a pickle.
_ROWS = (
    (
        (
            "model.safetensors",
            "model.*.safetensors",
            "model-*-of-*.safetensors",
            "model.safetensors.index.json",
            "model.safetensors.index.*.json",
            "pytorch_model.bin",
            "pytorch_model.*.bin",
            "pytorch_model-*-of-*.bin",
            "pytorch_model.bin.index.json",
            "pytorch_model.bin.index.*.json",
            "tf_model.h5",
            "tf_model-*-of-*.h5",
            "tf_model.h5.index.json",
            "flax_model.msgpack",
            "flax_model-*-of-*.msgpack",
            "flax_model.msgpack.index.json",
        ),
        "weights of an earlier model",
    ),
    (
        (
            "adapter_config.json",
            "adapter_model.safetensors",
            "adapter_model.bin",
            "adapter_model-*-of-*.safetensors",
            "adapter_model.safetensors.index.json",
        ),
        "an adapter, which Transformers would add to these weights",
    ),
    (
        ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
        "a processor of an earlier model",
    ),
)
_CODE = "code of an earlier model"
_OWN_CODE = (*NATIVE_FILES, f"{ATTENTION}.py")
IN_WORDS = "weights, adapters, processors and sima_hf's own code of an earlier model"


@dataclass(frozen=True)
class RepositoryFiles:
    """What a repository holds before a push.

    Attributes:
        names: of all its files, with "/" between folders.
        auto_map: of its config.json: where the earlier model's code is.
    """

    names: frozenset[str]
    auto_map: Mapping[str, Any]

    def may_have_code(self) -> bool:
        """Whether any of the files may be code that sima_hf made, so that `auto_map` matters."""
        return any(map(_is_own_code, self.names))


def removed_files(there: RepositoryFiles, published: Collection[str]) -> dict[str, str]:
    """What of a repository a push takes out -> why.

    Args:
        there: the repository before the push.
        published: names that the push brings.
    """
    left = sorted(there.names - set(published))
    found = {}
    for name in left:
        reasons = (why for patterns, why in _ROWS if any(fnmatch.fnmatchcase(name, one) for one in patterns))
        if "/" not in name and (why := next(reasons, None)):
            found[name] = why
    named = {f"{place.partition('.')[0]}.py" for place in _places(there.auto_map)}
    if any(map(_is_own_code, named)):
        found |= {name: _CODE for name in left if name in _OWN_CODE or (name in named and _is_own_code(name))}
    return dict(sorted(found.items()))


def _is_own_code(name: str) -> bool:
    return name in _OWN_CODE or fnmatch.fnmatchcase(name, "modeling_sima_*.py")


def _places(auto_map: Any) -> Iterator[str]:
    """The places of code in the repository itself, "file.Class"; those with "--" in them are in another."""
    if isinstance(auto_map, str):
        yield from () if "--" in auto_map else (auto_map,)
    elif isinstance(auto_map, Mapping):
        for value in auto_map.values():
            yield from _places(value)
    elif isinstance(auto_map, (list, tuple)):
        for value in auto_map:
            yield from _places(value)
