"""A model comes as the class that saved it, config and weights from one place."""

import sima_hf
from sima_hf.loading.saved_class import load_with_report
from tests.helpers.hosts.at_hand import make, vit


def test_config_and_weights_are_of_one_subfolder(tmp_path):
    sima_hf.patch_model(make("swin", "SwinModel")).save_pretrained(tmp_path / "tower")
    sima_hf.patch_model(vit()).save_pretrained(tmp_path)
    model, report = load_with_report(str(tmp_path), subfolder="tower")
    assert type(model).__name__ == "SimASwinModel"
    assert not report["missing_keys"]
