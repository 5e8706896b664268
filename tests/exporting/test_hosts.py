"""One host of each kind of code, exported to ONNX, run at other batch sizes, and certified; the table of all is in docs/export.md."""

import pytest

from sima_hf import export, patch_model
from sima_hf.errors import ExportError
from sima_hf.patching.attentions import forward_class
from sima_hf.patching.hosts import HOSTS
from tests.helpers.hosts.at_hand import KINDS, given, make, type_of


pytest.importorskip("transformers.exporters")
pytestmark = pytest.mark.slow


def forwards_of(case):
    """What computes attention in a host instead of its own code: classes of one family inherit one forward."""
    return frozenset(forward_class(place).forward for place in HOSTS[case].forwards.values())


# Those of the interface are told apart by what is around the attention: reduction, rotary positions, windows, packed images.
INTERFACE = ("vit", "segformer", "siglip", "sam2_hiera_det_model", "detr", "dinov3_vit", "qwen2_vl_vision")
_HOSTS = [(case, name) for case, name in KINDS if case in HOSTS]
_FIRST = {forwards_of(case): (case, name) for case, name in reversed(_HOSTS) if forwards_of(case)}.values()
EXPORTED = [pair for pair in _HOSTS if pair in _FIRST or pair[0] in INTERFACE or pair[1] == "Dinov2Backbone"]
# Its decoder for masked images takes five times as long to trace, and none of it is SimA.
EXPORTED = [(case, "HieraForImageClassification") if case == "hiera" else (case, name) for case, name in EXPORTED]
# As few blocks as show all: what a tracer makes of one it makes of the next.
ONE = {"num_hidden_layers": 1}
SMALLER = {
    **dict.fromkeys(("vit", "beit", "siglip_vision_model", "data2vec-vision", "aimv2_vision_model", "vjepa2"), ONE),
    **dict.fromkeys(("blip_vision_model", "flava_image_model", "timesformer", "mgp-str", "dinov3_vit"), ONE),
    **{case: {"depths": [2], "num_heads": [2]} for case in ("swin", "swinv2", "donut-swin")},
    "siglip": {"text_config": ONE, "vision_config": ONE},
    "pvt": {"depths": [1, 1]},
    "hiera": {"depths": [1, 1, 1]},
    "videoprism_vision_model": {**ONE, "num_spatial_layers": 1, "num_temporal_layers": 1},
    "sam2_hiera_det_model": {"blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3]},
}
# Transformers' exporter replaces the attention of the first by softmax; the second's own code looks at numbers while it is traced.
REFUSED = {"qwen2_vl_vision": "Softmax is left in the file where SimA should be", "eomt": "data-dependent"}
# Models whose other sides keep their attention.
LARGER = {"detr", "siglip"}


@pytest.mark.parametrize(("case", "name"), EXPORTED, ids=[f"{case}-{name}" for case, name in EXPORTED])
def test_the_graph_is_the_model_and_holds_no_softmax_in_what_was_swapped(case, name, tmp_path):
    model = patch_model(make(case, name, **SMALLER.get(case, {})))
    if type_of(case) in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[type_of(case)]):
            export(model, tmp_path / "out", inputs=given(case, name))
        assert list(tmp_path.iterdir()) == []
        return
    exported = export(model, tmp_path / "out", inputs=given(case, name))
    assert exported.agreement.error < exported.agreement.tolerance
    assert exported.certificate.in_swapped == ()
    assert exported.certificate.softmax_free or type_of(case) in LARGER
