"""What a push removes from a repository: files of an earlier model that readers would load in place of this one's, or with them.

Only names that Transformers looks for by itself, beside config.json, and sima_hf's own code. All else is its owner's and stays.
"""

import fnmatch
from collections.abc import Collection
from typing import Any

from ..folders.file_names import ADAPTER_FILES, WEIGHT_FILES, code_places, matches
from ..patching.remote_code.model_files import ATTENTION, BASE, NATIVE_FILES


# Weights for TensorFlow and Flax, which Transformers 4 reads.
_OTHER_FRAMEWORKS = (
    "tf_model.h5",
    "tf_model-*-of-*.h5",
    "tf_model.h5.index.json",
    "flax_model.msgpack",
    "flax_model-*-of-*.msgpack",
    "flax_model.msgpack.index.json",
)
# Names of files that the push does not bring -> why they are removed.
_STALE = (
    ((*WEIGHT_FILES, *_OTHER_FRAMEWORKS), "weights of an earlier model"),
    (ADAPTER_FILES, "an adapter, which Transformers would add to these weights"),
    (
        ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
        "a processor of an earlier model",
    ),
)
_CODE = "code of an earlier model"
_SHARED_CODE = (*NATIVE_FILES, f"{ATTENTION}.py", f"{BASE}.py")
IN_WORDS = "weights, adapters, processors and sima_hf's own code of an earlier model"


def stale_files(names: Collection[str], published: Collection[str], auto_map: Any = None) -> dict[str, str]:
    """What of a repository a push removes -> why.

    Args:
        names: of the repository's files before the push.
        published: names that the push brings.
        auto_map: of the repository's config.json, which names the earlier model's code.
    """
    left = sorted(set(names) - set(published))
    stale = {name: why for name in left for patterns, why in _STALE if "/" not in name and matches(name, patterns)}
    named = {f"{place.partition('.')[0]}.py" for place in code_places(auto_map) if "--" not in place}
    if any(map(is_own_code, named)):
        stale |= {name: _CODE for name in left if name in _SHARED_CODE or (name in named and is_own_code(name))}
    return dict(sorted(stale.items()))


def is_own_code(name: str) -> bool:
    """Whether a file is called as the code is that sima_hf publishes."""
    return name in _SHARED_CODE or fnmatch.fnmatchcase(name, "modeling_sima_*.py")
