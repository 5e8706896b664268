"""Whether a README is only what Transformers writes by itself, so that nothing of an author's is lost with it."""

import re

from huggingface_hub.repocard import TEMPLATE_MODELCARD_PATH


_AUTOMATIC = "This model card has been automatically generated."
_UNKNOWN = r"\[More Information Needed\]"

# Lines of the template that `model.push_to_hub` fills in, besides headings and comments.
_TEMPLATE = re.compile(
    "|".join(
        (
            rf"(- \*\*[^*]+\*\*\s*)?{_UNKNOWN}(\(.*\))?",
            rf"\*\*\w+:\*\*( {_UNKNOWN})?",
            rf"This is the model card of a .{{0,8}}transformers model that has been pushed on the Hub\. {re.escape(_AUTOMATIC)}",
            r"Use the code below to get started with the model\.",
            r"Users \(both direct and downstream\) should be made aware of the risks, biases and limitations of the model\. "
            r"More information needed for further recommendations\.",
            r"Carbon emissions can be estimated using the \[Machine Learning Impact calculator\]\(\S+\) presented in "
            r"\[Lacoste et al\. \(2019\)\]\(\S+\)\.",
        )
    )
)

_TRAINER_COMMENT = (
    r"<!-- This model card has been generated automatically according to the information the Trainer had access to\. You\n"
    r"should probably proofread and complete it, then remove this comment\. -->"
)
_LIST = r"(- [^\n]+\n)*"
# All of what `Trainer.create_model_card` writes: an author's word anywhere makes it another text.
_TRAINER = re.compile(
    rf"{_TRAINER_COMMENT}\n+# [^\n]*\n+"
    r"This model (was trained from scratch|is a fine-tuned version of \[[^\n\]]*\]\([^\n)]*\)) on [^\n]*\b(dataset|datasets)\.\n"
    rf"(It achieves the following results on the evaluation set:\n{_LIST})?\n*"
    r"## Model description\n+More information needed\n+"
    r"## Intended uses & limitations\n+More information needed\n+"
    r"## Training and evaluation data\n+More information needed\n+"
    r"## Training procedure\n+### Training hyperparameters\n+"
    rf"(The following hyperparameters were used during training:\n{_LIST}|More information needed\n)\n*"
    r"(### Training results\n+(\|[^\n]*\|\n)*\n*)?"
    rf"### Framework versions\n+{_LIST}\s*"
)


def is_push_to_hub_text(body: str) -> bool:
    """Whether a body is the template of `model.push_to_hub`, with nothing filled in."""
    text = re.sub(r"<!--.*?-->", "", body.replace("\r\n", "\n"), flags=re.DOTALL)
    lines = [line.strip() for line in text.split("\n")]
    said = [line for line in lines if line and not line.startswith("#")]
    template = TEMPLATE_MODELCARD_PATH.read_text(encoding="utf-8").split("\n")
    headings = [line for line in lines if line.startswith("#") and not line.startswith("# Model Card for ")]
    return (
        _AUTOMATIC in body
        and all(_TEMPLATE.fullmatch(line) for line in said)
        and all(line in template for line in headings)
    )


def is_trainer_text(body: str) -> bool:
    """Whether a body is what `Trainer` writes, its comment still there and nothing added."""
    return _TRAINER.fullmatch(body.replace("\r\n", "\n").strip() + "\n") is not None


def is_stock(body: str) -> bool:
    """Whether a body is either of them."""
    return is_push_to_hub_text(body) or is_trainer_text(body)
