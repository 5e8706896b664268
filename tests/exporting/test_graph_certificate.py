"""Counting the nodes of graphs, made by hand with ONNX's own helpers, and of OpenVINO's."""

import json

import pytest

from sima_hf.errors import ExportError, MissingDependencyError
from sima_hf.exporting import graphs
from sima_hf.exporting.graph_certificate import certify_graph


onnx = pytest.importorskip("onnx")
HERE, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"


def node(operation, path=None, classes=(), domain="", **attributes):
    made = onnx.helper.make_node(operation, ["x"], ["y"], domain=domain, **attributes)
    if path is not None:
        facts = {HERE: repr(["", path, "op"]), CLASSES: repr([*classes, "aten.op"])}
        for key, value in facts.items():
            made.metadata_props.add(key=key, value=value)
    return made


def saved(path, nodes, functions=()):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])
    graph = onnx.helper.make_graph(nodes, "g", [value], [out])
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, functions=functions), path)
    return path


VIT, SIMA = "transformers.models.vit.modeling_vit", "sima_hf.patching.classes"
IN_ATTENTION = ("layers.0.attention", (f"{SIMA}.SimAViTModel", f"{VIT}.ViTLayer", f"{VIT}.ViTAttention"))


def test_what_is_in_attention_counts_and_what_is_transcendental_is_said(tmp_path):
    head = ("head", (f"{SIMA}.SimAViTModel", "torch.nn.modules.activation.Softmax"))
    mlp = ("layers.0.mlp.act", (f"{VIT}.ViTLayer", f"{VIT}.ViTMLP", "transformers.activations.GELUActivation"))
    nodes = [node("Div", *IN_ATTENTION), node("Softmax", *head), node("Erf", *mlp), node("Erf", *mlp), node("MatMul")]
    found = certify_graph(saved(tmp_path / "m.onnx", nodes))
    assert found.softmax_free
    assert [(one.operation, one.attention, one.count) for one in found.softmax] == [("Softmax", False, 1)]
    assert [(one.operation, one.attention, one.count) for one in found.transcendental] == [("Erf", False, 2)]
    assert found.counts == {"Erf": 2, "Div": 1, "Softmax": 1, "MatMul": 1}
    assert "1 x Softmax in head [Softmax] (not in attention)" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["nodes"]["Div"] == 1


@pytest.mark.parametrize(
    "operation", ["Softmax", "Exp", "LogSoftmax", "Attention", "com.microsoft::MultiHeadAttention"]
)
def test_softmax_exp_and_fused_attention_are_found(tmp_path, operation):
    domain, _, name = operation.rpartition("::")
    found = certify_graph(saved(tmp_path / "m.onnx", [node(name, *IN_ATTENTION, domain=domain)]))
    assert not found.softmax_free
    assert found.count == len(found.in_swapped) == 1
    assert found.softmax[0].module == "ViTAttention"
    assert f"1 x {operation} in layers.0.attention [ViTAttention]" in str(found)


def test_the_text_side_of_a_larger_model_is_not_what_was_swapped(tmp_path):
    text = (
        "language_model.layers.0.self_attn",
        (f"{SIMA}.SimALlavaModel", "transformers.models.llama.LlamaAttention"),
    )
    path = saved(tmp_path / "m.onnx", [node("Softmax", *text)])
    found = certify_graph(path, [("vision_tower", "")])
    assert (found.softmax_free, found.count, found.in_swapped) == (False, 1, ())
    assert len(certify_graph(path, [("language_model", "")]).in_swapped) == 1


def test_a_softmax_of_unknown_place_counts(tmp_path):
    found = certify_graph(saved(tmp_path / "m.onnx", [node("Softmax")]))
    assert not found.softmax_free
    assert found.in_swapped == ()
    assert "in an unknown place" in str(found)


def test_what_the_table_of_hosts_allows_is_allowed(tmp_path):
    classes = (f"{SIMA}.SimASwinv2Model", "transformers.models.swinv2.modeling_swinv2.Swinv2SelfAttention")
    found = certify_graph(saved(tmp_path / "m.onnx", [node("Exp", "layers.0.attention", classes)]))
    assert found.softmax_free
    assert found.softmax[0].allowed


def test_branches_and_functions_are_counted(tmp_path):
    value = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])
    branch = onnx.helper.make_graph([node("Exp")], "branch", [], [value])
    function = onnx.helper.make_function(
        "mine", "F", ["x"], ["y"], [node("Softmax")], [onnx.helper.make_opsetid("", 20)]
    )
    nodes = [node("If", then_branch=branch, else_branch=branch), node("F", domain="mine")]
    found = certify_graph(saved(tmp_path / "m.onnx", nodes, [function]))
    assert found.counts == {"Exp": 2, "If": 1, "Softmax": 1}
    assert found.count == 3


def test_inputs_and_what_else_a_graph_says(tmp_path):
    graph = graphs.read_graph(saved(tmp_path / "m.onnx", [node("Abs")]))
    assert (graph.format, graph.opset) == ("onnx", 20)
    assert graph.inputs == [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}]
    assert [one["name"] for one in graph.outputs] == ["y"]


def test_files_that_are_no_graph(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"\x00nothing")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("m.onnx", "empty.onnx"):
        with pytest.raises(ExportError, match="cannot be read as a graph"):
            certify_graph(tmp_path / name)
    with pytest.raises(ExportError, match=r"must be a file of ONNX \(.onnx\) or OpenVINO IR \(.xml\)"):
        certify_graph(tmp_path / "m.txt")
    monkeypatch.setattr(graphs, "find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match=r"needs onnx: pip install 'sima-hf\[onnx\]'"):
        certify_graph(tmp_path / "m.onnx")


def test_openvino(tmp_path):
    openvino = pytest.importorskip("openvino")
    operations = pytest.importorskip("openvino.opset14")
    x = operations.parameter([-1, 3], openvino.Type.f32)
    model = openvino.Model([operations.exp(operations.softmax(operations.erf(x), 1))], [x])
    openvino.save_model(model, tmp_path / "m.xml")
    found = certify_graph(tmp_path / "m.xml")
    assert found.format == "openvino"
    assert found.counts == {"Erf": 1, "Softmax": 1, "Exp": 1}
    assert (found.count, found.softmax_free) == (2, False)
    assert [one.operation for one in found.transcendental] == ["Erf"]
    assert graphs.read_graph(tmp_path / "m.xml").inputs[0]["shape"] == ["?", 3]
