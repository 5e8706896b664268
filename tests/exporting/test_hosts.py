"""One host of each kind of code, exported to ONNX, run at other batch sizes, and certified; the table of all is in docs/export.md."""

import pytest

from sima_hf import export, patch_model
from tests.helpers.hosts.at_hand import KIND_IDS, KINDS, given, make


pytest.importorskip("transformers.exporters")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("case", "name"), KINDS, ids=KIND_IDS)
def test_the_graph_is_the_model_and_holds_no_softmax_in_what_was_swapped(case, name, tmp_path):
    exported = export(patch_model(make(case, name)), tmp_path / "out", inputs=given(case, name))
    assert exported.agreement.error < exported.agreement.tolerance
    assert exported.certificate.in_swapped == ()
    if name.startswith(("Llava", "UperNet", "Clip", "CLIPModel")):  # their other sides keep what they have
        return
    assert exported.certificate.softmax_free
