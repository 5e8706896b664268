"""The words that options take, for help and completion, without importing torch; tests hold them equal to the package's own."""

from enum import Enum


class Gain(str, Enum):
    """What SimA's output is multiplied by."""

    tokens = "tokens"
    none = "none"


class Attention(str, Enum):
    """What a swap brings: SimA, or a peer in its place."""

    sima = "sima"
    inline = "inline"
    mala = "mala"
    elu = "elu"
    relu_kernel = "relu_kernel"
    relu_over_tokens = "relu_over_tokens"
    power_softmax = "power_softmax"
    sigmoid = "sigmoid"
    rela = "rela"
    efficient = "efficient"
    hydra = "hydra"


class Weights(str, Enum):
    """Which weights of a training checkpoint."""

    ema = "ema"
    raw = "raw"


class DType(str, Enum):
    """Floating types of parameters."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Pooling(str, Enum):
    """Which vector of an encoder is read."""

    auto = "auto"
    cls = "cls"
    mean = "mean"
    pooler = "pooler"
    projection = "projection"


class Protocol(str, Enum):
    """How a model is evaluated."""

    classifier = "classifier"
    knn = "knn"
    linear = "linear"


class Format(str, Enum):
    """What an export is for."""

    onnx = "onnx"
    openvino = "openvino"
    executorch = "executorch"


class Dynamic(str, Enum):
    """What may differ between two runs of an exported file."""

    none = "none"
    batch = "batch"
    resolution = "resolution"


class Quantize(str, Enum):
    """How an exported file is quantized."""

    int8 = "int8"


class Backend(str, Enum):
    """Who computes SimA attention."""

    auto = "auto"
    cpu = "cpu"
    triton = "triton"
    eager = "eager"
    reference = "reference"


VARIANTS = tuple(
    f"sima_{size}_p{patch}"
    for patch in (16, 8)
    for size in ("nano_12", "tiny_12", "small_12", "tiny_24", "small_24", "medium_24", "large_24")
)
RANDOM_MODELS = ("deit-tiny", "deit-small", "deit-base")  # sizes of published models, built with random weights
DEVICES = ("cpu", "cuda", "mps")


def variants(incomplete: str) -> list[str]:
    """Original SimA models that begin so."""
    return [name for name in VARIANTS if name.startswith(incomplete)]


def bench_models(incomplete: str) -> list[str]:
    """Models that can be built with random weights and begin so."""
    return [name for name in (*RANDOM_MODELS, *VARIANTS) if name.startswith(incomplete)]


def softmax_models(incomplete: str) -> list[str]:
    """Those of them that have softmax to compare with."""
    return [name for name in RANDOM_MODELS if name.startswith(incomplete)]


def host_types(incomplete: str) -> list[str]:
    """Model types of Transformers that can be swapped and begin so."""
    from ..patching.host_table import COMPOSITES, HOSTS  # data alone

    names = dict.fromkeys([*HOSTS, *COMPOSITES])
    return [name for name in names if name.startswith(incomplete)]


def one_of(*names: str):
    """A completion from a few fixed words, for options whose values the package checks itself."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete
