"""`sima-hf convert` hands on what it was given, and keeps stdout for its result."""

import json

from sima_hf import SimAConfig
from sima_hf.models.sima import convert_sima


def test_convert_for_machines(tmp_path, run, monkeypatch):
    calls = []

    def convert(checkpoint, output_dir, **options):
        print("a library that talks")
        calls.append((str(checkpoint), str(output_dir), options))
        return SimAConfig(num_hidden_layers=3, num_labels=7)

    monkeypatch.setattr(convert_sima, "convert_original_checkpoint", convert)
    arguments = ("a.pth", tmp_path / "out", "--variant", "sima_nano_12_p16", "--weights", "model_ema")
    found = run("convert", *arguments, "--json")
    assert found.code == 0
    facts = json.loads(found.out)
    assert (facts["folder"], facts["num_hidden_layers"], facts["num_labels"]) == (str(tmp_path / "out"), 3, 7)
    assert "a library that talks" in found.err
    assert calls == [("a.pth", str(tmp_path / "out"), {"variant": "sima_nano_12_p16", "weights": "model_ema"})]
