"""One host of each kind of code, exported to ONNX, run at other batch sizes, and certified; the table of all is in docs/export.md."""

import pytest

from sima_hf import export, patch_model
from sima_hf.errors import ExportError
from sima_hf.patching.hosts import HOSTS
from tests.helpers.hosts.at_hand import KINDS, given, make, type_of


pytest.importorskip("transformers.exporters")
pytestmark = pytest.mark.slow

KINDS = [(case, name) for case, name in KINDS if type_of(case) in HOSTS]
# Transformers' exporter replaces the attention of the first by softmax; the second's own code looks at numbers while it is traced.
REFUSED = {"qwen2_vl_vision": "Softmax is left in the file where SimA should be", "eomt": "data-dependent"}
# Models whose other sides keep their attention.
LARGER = {"detr", "siglip"}


@pytest.mark.parametrize(("case", "name"), KINDS, ids=[f"{case}-{name}" for case, name in KINDS])
def test_the_graph_is_the_model_and_holds_no_softmax_in_what_was_swapped(case, name, tmp_path):
    model = patch_model(make(case, name))
    if type_of(case) in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[type_of(case)]):
            export(model, tmp_path / "out", inputs=given(case, name))
        assert list(tmp_path.iterdir()) == []
        return
    exported = export(model, tmp_path / "out", inputs=given(case, name))
    assert exported.agreement.error < exported.agreement.tolerance
    assert exported.certificate.in_swapped == ()
    assert exported.certificate.softmax_free or type_of(case) in LARGER
