"""The card of a model, read as a stranger and as the Hub read it: facts, their files, code that runs, nothing guessed."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, VideoMAEConfig, VideoMAEModel

import sima_hf
from sima_hf.errors import PublishError
from sima_hf.folders.provenance import write_provenance
from sima_hf.hub.cards.card import model_card
from sima_hf.hub.cards.facts import CardFacts, card_files, find_facts
from sima_hf.hub.cards.readme import END, read_readme
from sima_hf.hub.cards.usage import auto_class, pipeline_tag
from sima_hf.patching.certificate import Certificate, Operation
from tests.helpers.hosts.at_hand import make
from tests.helpers.hub.card_models import BASE, SIZES, checked, clip, evaluation, native, patched, vit, write


ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmarks/results/model_deit-small_forward_cpu_float32.csv"
REPO = "org/sima-model"


@pytest.fixture(scope="module")
def native_folder(tmp_path_factory):
    return native(tmp_path_factory.mktemp("native") / "digits")


@pytest.fixture(scope="module")
def patched_folder(tmp_path_factory):
    return patched(tmp_path_factory.mktemp("patched") / "vit")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def evaluated(native_folder, tmp_path):
    """Facts of a native model that was evaluated."""
    return CardFacts(license="apache-2.0", results=write(tmp_path / "evaluation.json", evaluation(native_folder)))


def section(card: str, title: str) -> str:
    """One section of a card; "" if it has none of this title."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def code(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def test_the_hub_reads_what_was_measured(native_folder, evaluated):
    data = ModelCard(model_card(native_folder, REPO, evaluated)).data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    assert data.tags == ["sima", "softmax-free", "vision", "image-classification"]
    assert data.model_name == "sima-model"
    report = json.loads(evaluated.results[0].read_text())
    found = {result.metric_name: result for result in data.eval_results}
    assert found["Top-1 accuracy"].metric_value == report["accuracy"]
    assert found["Top-5 accuracy"].metric_value == report["top_5_accuracy"]
    for result in found.values():
        assert (result.task_type, result.dataset_name, result.dataset_split) == (
            "image-classification",
            "digits",
            "validation",
        )
        assert result.source_url.endswith(f"/{REPO}/blob/main/evaluation.json")
    assert data.datasets is None  # scikit-learn's digits are no data set of the Hub


def test_every_file_that_is_named_is_to_be_published(patched_folder, tmp_path):
    """And the other way: what is to be published with the card is named in it."""
    (tmp_path / "bench.csv").write_bytes(BENCHMARK.read_bytes())
    write(tmp_path / "evaluation.json", evaluation(patched_folder))
    facts = find_facts(patched_folder.path, results=tmp_path, benchmark=tmp_path / "bench.csv")
    card = model_card(patched_folder, REPO, facts)
    names = {path.name for path in card_files(facts)}
    assert names == {"evaluation.json", "bench.csv", "sima_provenance.json"}
    assert {name for name, place in re.findall(r"\[([^]]+)\]\((?!http)([^)]+)\)", card) if name == place} == names
    for row in re.findall(r"^\|.*\d.*\|$", section(card, "Results"), flags=re.MULTILINE):
        assert row.endswith(".json) |"), row
    for title in ("Calibration", "Training"):
        before = section(card, title).partition("\n|")[0]
        assert not before or "From [sima_provenance.json](sima_provenance.json)" in before


def test_nothing_known_nothing_said(native_folder):
    card = model_card(native_folder, REPO, CardFacts())
    for title in ("Results", "Speed", "Training", "Calibration"):
        assert not section(card, title)
    assert set(ModelCard(card).data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert "license" not in card
    assert "None" not in card
    assert card_files(CardFacts()) == ()


def test_a_decoder_that_keeps_softmax_is_not_called_swapped(tmp_path):
    """DETR's swap is within its encoder, and its decoder is plain modules, of which no list of parts tells."""
    model = sima_hf.patch_model(make("detr", "DetrForObjectDetection"))
    model.config.save_pretrained(tmp_path)
    one = checked(tmp_path, model)
    assert not one.certificate.softmax_free
    card = model_card(one, REPO, CardFacts())
    assert "A vision model in part of which attention is [SimA]" in card
    assert "whose attention is" not in card
    assert "softmax-free" not in ModelCard(card).data.tags


def test_a_model_is_whole_only_by_the_count(patched_folder):
    assert "An image classifier whose attention is [SimA]" in model_card(patched_folder, REPO, CardFacts())
    operations = (Operation("decoder.x", "Attention", "aten::_softmax", 3, None, False),)
    part = dataclasses.replace(patched_folder, certificate=Certificate("SimAViT", operations, ("vit",)))
    assert "An image classifier in part of which attention is" in model_card(part, REPO, CardFacts())
    swapped = tuple(dataclasses.replace(one, within="encoder") for one in patched_folder.description.swapped)
    description = dataclasses.replace(patched_folder.description, swapped=swapped)
    part = dataclasses.replace(patched_folder, description=description)
    assert "An image classifier in part of which attention is" in model_card(part, REPO, CardFacts())


def test_what_is_allowed_is_named_with_its_reason(patched_folder):
    operations = (Operation("vit.x", "SimAThing", "aten::exp", 2, "it scales | nothing", True),)
    certificate = Certificate("SimAViT", operations, ("",))
    text = section(model_card(dataclasses.replace(patched_folder, certificate=certificate), None), "Attention")
    assert "- 2 x `aten::exp` in `SimAThing` (`vit.x`): it scales \\| nothing" in text
    assert "**0**" in text


def test_no_card_for_softmax(tmp_path, patched_folder):
    with pytest.raises(PublishError, match="ran 2 operations of softmax attention"):
        model_card(checked(tmp_path, vit()), REPO, CardFacts())
    operations = (Operation("vit.x", "SimAThing", "aten::_softmax", 3, None, True),)
    bad = dataclasses.replace(patched_folder, certificate=Certificate("SimAViT", operations, ("",)))
    with pytest.raises(PublishError, match=r"ran 3 operations .* aten::_softmax in vit\.x"):
        model_card(bad, REPO, CardFacts())


@pytest.mark.parametrize("kind", ["native_folder", "patched_folder"])
def test_the_code_in_the_card_runs(kind, request, tmp_path, monkeypatch, capsys):
    """The first and the third way as they stand; the second needs a repository, and is tried against the server."""
    one = request.getfixturevalue(kind)
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((40, 30), 80).convert("L").save("image.jpg")
    card = model_card(one, str(one.path), CardFacts())
    first, second, *third = code(card)
    if "processor" in first:
        if getattr(transformers.AutoImageProcessor, "is_dummy", False):
            pytest.skip("AutoImageProcessor of this Transformers asks for torchvision, which is not here")
        exec(first, space := {})
        picture = space["processor"](Image.open("image.jpg").convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            label = one.config.id2label[int(one.model(**picture).logits.argmax())]
        assert capsys.readouterr().out.strip() == label
        exec(third[0], {})
        assert f"'label': '{label}'" in capsys.readouterr().out
    else:
        exec(first, space := {})
        assert type(space["model"]) is type(one.model)
        assert third == []
        assert "There is no image processor here, which `pipeline` would need." in card
    compile(second, "card", "exec")
    assert "import sima_hf" not in second
    assert '"trust_remote_code": True, "code_revision": "main"' in second


def test_tasks_and_auto_classes(native_folder, clip_folder):
    assert (pipeline_tag(native_folder.model), auto_class(native_folder.model)) == (
        "image-classification",
        "AutoModelForImageClassification",
    )
    assert auto_class(clip_folder.model) == "AutoModelForZeroShotImageClassification"
    assert (pipeline_tag(native_folder.model.sima), auto_class(native_folder.model.sima)) == (
        "image-feature-extraction",
        "AutoModel",
    )
    inner = clip_folder.model.text_model
    assert pipeline_tag(inner) is None


def test_a_class_without_auto_class_is_loaded_by_its_name(tmp_path):
    """AutoModel has a class for this config, but it is another one."""
    config = CLIPVisionConfig(**SIZES, image_size=32, patch_size=8)
    model = sima_hf.patch_model(CLIPVisionModelWithProjection(config))
    model.save_pretrained(tmp_path)
    assert auto_class(model) is None
    (lines,) = code(model_card(checked(tmp_path, model), str(tmp_path), CardFacts()))
    exec(lines, space := {})
    assert type(space["model"]) is type(model)


def test_the_pipeline_of_features_is_for_single_pictures(tmp_path):
    video = VideoMAEModel(VideoMAEConfig(**SIZES, image_size=32, patch_size=8, num_frames=4))
    assert pipeline_tag(sima_hf.patch_model(video)) is None
    assert auto_class(video) == "AutoModel"


def test_weights_that_were_only_swapped_are_called_noise_first(patched_folder, tmp_path):
    def card(**more):
        write_provenance(tmp_path, base_model=BASE, made_by="sima-hf patch", anew=True, **more)
        return model_card(patched_folder, REPO, find_facts(tmp_path))

    words = "**Softmax was swapped for SimA in these weights, and nothing was calibrated or trained since"
    link = "([sima_provenance.json](sima_provenance.json))"
    assert f"# sima-model\n\n{words}, so they answer at random** {link}." in card()
    assert words not in card(calibration={"images": 3})
    assert words not in card(training={"seed": 3})
    write(tmp_path / "evaluation.json", evaluation(patched_folder))
    assert f"{words}** {link}." in card()  # how they answer is in the figures
    (tmp_path / "evaluation.json").unlink()
    write(tmp_path / "trainer_state.json", {"global_step": 3})
    assert words not in card()
    assert words not in model_card(patched_folder, REPO, CardFacts())


def test_only_swapped_is_not_finetuned(patched_folder, tmp_path):
    write_provenance(tmp_path, base_model="org/base")
    facts = CardFacts(provenance=tmp_path / "sima_provenance.json")
    data = ModelCard(model_card(patched_folder, REPO, facts)).data.to_dict()
    assert data["base_model"] == "org/base"
    assert "base_model_relation" not in data


def test_training_settings_and_data(native_folder, tmp_path):
    training = {"num_train_epochs": 45.0, "learning_rate": 2e-3, "ema_decay": 0.0, "bf16": False}
    write_provenance(tmp_path, training=training, dataset="ImageNet-1k", hub_dataset="ILSVRC/imagenet-1k")
    results = {"epoch": 45.0, "eval_accuracy": 0.75, "eval_loss": 1.5, "eval_runtime": 3.0, "train_loss": 2.25}
    write(tmp_path / "all_results.json", results)
    write(tmp_path / "trainer_state.json", {"num_train_epochs": 45, "global_step": 100})
    facts = find_facts(tmp_path)
    assert facts.training is None  # the provenance has the settings
    card = model_card(native_folder, REPO, facts)
    text = section(card, "Training")
    assert text.count("| epochs | 45 |") == 1
    for row in ("| learning rate | 0.002 |  |", "| mean loss in training | 2.25 | [all_results"):
        assert row in text
    assert "From [sima_provenance.json](sima_provenance.json), where no other file is named:" in text
    assert text.count("sima_provenance.json](") == 1
    data = ModelCard(card).data
    assert data.datasets == ["ILSVRC/imagenet-1k"]
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_value) == ("ImageNet-1k", 0.75)
    assert "| top-1 accuracy | 75.00% | ImageNet-1k; held-out images of the training run |" in section(card, "Results")
    assert "runtime" not in section(card, "Results")


def test_trainer_state_where_nothing_else_says_it(native_folder, tmp_path):
    history = [{"learning_rate": 1e-3, "loss": 2.0}, {"learning_rate": 5e-4}, {"eval_loss": 1.0}]
    write(tmp_path / "trainer_state.json", {"num_train_epochs": 2, "global_step": 12, "log_history": history})
    facts = find_facts(tmp_path)
    assert [path.name for path in card_files(facts)] == ["trainer_state.json"]
    text = section(model_card(native_folder, REPO, facts), "Training")
    assert "From [trainer_state.json](trainer_state.json):" in text
    assert "| optimizer steps | 12 |\n" in text
    assert "| highest learning rate logged | 0.001 |" in text
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(PublishError, match="not the state that Trainer saves"):
        model_card(native_folder, REPO, facts)


@pytest.mark.parametrize(
    ("weights", "told"),
    [(("ema", "ema"), True), (("both", "ema"), True), (("raw", "ema"), False), (("both", "raw"), False)],
)
def test_accuracy_of_weights_that_were_not_saved_is_not_told(weights, told, native_folder, tmp_path):
    settings = dict(zip(("eval_weights", "save_weights"), weights, strict=True))
    write_provenance(tmp_path, training={"ema_decay": 0.99, **settings}, dataset="photos")
    write(tmp_path / "all_results.json", {"eval_accuracy": 0.75, "eval_raw_accuracy": 0.25, "train_loss": 1.0})
    card = model_card(native_folder, REPO, find_facts(tmp_path))
    assert ("75.00%" in card) is told
    assert (ModelCard(card).data.eval_results is not None) is told
    assert "25.00%" not in card
    assert "| mean loss in training | 1 |" in card


def test_speed_with_machine_versions_and_model(patched_folder, tmp_path):
    (tmp_path / "times.csv").write_bytes(BENCHMARK.read_bytes())
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    facts = find_facts(tmp_path)
    assert facts.benchmark == (tmp_path / "times.csv",)
    text = section(model_card(patched_folder, REPO, facts), "Speed")
    rows = [line.split(",") for line in BENCHMARK.read_text().replace('"AMD EPYC, 2 threads"', "CPU").split("\n")[1:3]]
    baseline, sima = float(rows[0][9]), float(rows[1][9])
    assert f"| forward | 1 | 224 | {baseline:.3g} ms | {sima:.3g} ms |" in text
    assert f"| {1 / float(rows[1][13]):.2f} times |" in text
    assert "AMD EPYC, 2 threads, torch 2.13.0+cpu, transformers 5.23.0, sima_hf 0.1.0" in text
    assert "`deit-small`" in text
    assert "not for the weights in this repository" in text
    own = BENCHMARK.read_text().replace("deit-small,", f"{REPO},")
    (tmp_path / "times.csv").write_text(own)
    assert "not for the weights" not in section(model_card(patched_folder, REPO, facts), "Speed")


def test_what_was_given_wins_over_what_is_found(native_folder, tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for place, accuracy in ((folder, 0.25), (elsewhere, 0.5)):
        place.mkdir()
        write(place / "evaluation.json", evaluation(native_folder, accuracy=accuracy))
    write(folder / "results.json", [1, 2])  # of something else
    assert find_facts(folder).results == (folder / "evaluation.json",)
    given = find_facts(folder, results=elsewhere, license=None, base_model="org/base", benchmark=())
    assert given.results == (elsewhere / "evaluation.json",)
    assert (given.license, given.base_model) == (None, "org/base")
    assert "50.00%" in model_card(native_folder, REPO, given)
    both = CardFacts(results=(folder / "evaluation.json", elsewhere / "evaluation.json"))
    with pytest.raises(PublishError, match=r"would both be published as evaluation\.json"):
        card_files(both)
    with pytest.raises(PublishError, match="There is no file"):
        find_facts(folder, benchmark=folder / "none.csv")
    with pytest.raises(TypeError, match="color"):
        find_facts(folder, color="red")


def test_a_base_model_is_a_name_on_the_hub(native_folder):
    with pytest.raises(PublishError, match="must be a name on the Hub"):
        model_card(native_folder, REPO, CardFacts(base_model="../my model"))


def test_odd_names_break_neither_table_nor_marks(native_folder, tmp_path):
    odd = "a|b <!-- sima_hf:end -->\n# c, validation split"
    facts = CardFacts(results=write(tmp_path / "evaluation.json", evaluation(native_folder, of_data=odd)))
    card = model_card(native_folder, REPO, facts)
    assert read_readme(card).body.count(END) == 1
    assert "a\\|b &lt;!-- sima_hf:end --> # c, validation; 360 images" in section(card, "Results")
    assert model_card(native_folder, REPO, facts, card) == card


def test_odd_names_of_folders_metrics_and_files(native_folder, tmp_path):
    """As code that runs, and as text that stays in its place."""
    name = 'a "b" | c <!-- sima_hf:end --> `d`\\'
    odd = dataclasses.replace(native_folder, path=tmp_path / name)
    odd.path.mkdir()
    results = write(tmp_path / "my [results] | x.json", {"eval_f|1 <b>": 0.25, "eval_loss": 1.0})
    facts = CardFacts(results=results)
    card = model_card(odd, None, facts)
    assert read_readme(card).body.count(END) == 1
    assert model_card(odd, None, facts, card) == card
    for lines in code(card):
        strings = [node.value for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Constant)]
        assert name in strings
    assert '# a "b" \\| c &lt;!-- sima_hf:end --> `d`\\\n' in card
    (row,) = [line for line in section(card, "Results").split("\n") if "0.25" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert "| f\\|1 &lt;b> | 0.2500 |" in row
    assert "[my \\[results\\] \\| x.json](my%20%5Bresults%5D%20%7C%20x.json)" in row


def test_an_evaluation_without_its_data_is_of_no_known_data(native_folder, tmp_path):
    write_provenance(tmp_path, dataset="photos", training={"seed": 1})
    write(tmp_path / "evaluation.json", evaluation(native_folder, of_data=None))
    card = model_card(native_folder, REPO, find_facts(tmp_path))
    assert "| top-1 accuracy | 95.83% | 360 images | [evaluation.json]" in card
    assert "held-out" not in card
    assert ModelCard(card).data.eval_results is None
    known = model_card(native_folder, REPO, find_facts(tmp_path, evaluated_on="org/other"))
    assert ModelCard(known).data.eval_results[0].dataset_name == "org/other"


def test_somebodys_folders_are_not_told(native_folder, tmp_path):
    facts = {"of_data": "/home/somebody/imagenet/val"}
    path = write(tmp_path / "evaluation.json", evaluation(native_folder, **facts))
    card = model_card(native_folder, REPO, CardFacts(results=path))
    assert "somebody" not in card
    found = ModelCard(card).data.eval_results[0]
    assert (found.dataset_name, found.dataset_type, found.dataset_split) == ("imagenet", "imagenet", "val")
    assert "| imagenet, val; 360 images |" in section(card, "Results")
    card = model_card(native_folder, REPO, CardFacts(results=path, evaluated_on="ILSVRC/imagenet-1k"))
    assert ModelCard(card).data.eval_results[0].dataset_type == "ILSVRC/imagenet-1k"


def test_a_data_set_is_linked_by_its_full_name_only(native_folder, tmp_path, monkeypatch):
    """One word may be a stranger's data set on the Hub; and what folders lie around changes no card."""
    monkeypatch.chdir(tmp_path)
    cards = {}
    for place in ("before", "after"):
        for name in ("birds", "val", "org/birds", "photos of birds", "digits"):
            cards[place, name] = model_card(native_folder, REPO, CardFacts(dataset=name))
        for name in ("birds", "val", "digits"):
            (tmp_path / name).mkdir(exist_ok=True)
    for name in ("birds", "val", "org/birds", "photos of birds", "digits"):
        card = cards["before", name]
        assert card == cards["after", name]
        assert ModelCard(card).data.datasets == (["org/birds"] if name == "org/birds" else None)
        assert f"| trained on | {name} |" in card
    (tmp_path / "org" / "birds").mkdir(parents=True)
    with pytest.raises(PublishError, match=r"'org/birds' can be one on the Hub, and a folder here .* './org/birds'"):
        model_card(native_folder, REPO, CardFacts(dataset="org/birds"))
    card = model_card(native_folder, REPO, CardFacts(dataset="./org/birds"))
    assert ModelCard(card).data.datasets is None
    assert "| trained on | birds |" in card
