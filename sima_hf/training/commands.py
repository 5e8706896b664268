"""Training and distillation from a command line: what `sima-hf train`, `sima-hf distill` and examples/distill.py do."""

from transformers.utils import logging

from .arguments import DataArguments, ModelArguments, SimATrainingArguments
from .command_line import failures_as_sentences, parse
from .distillation.trainer import DistillationArguments, SimADistillationTrainer, build_teacher
from .run import prepare, train_and_evaluate, trainer_arguments
from .trainer import SimATrainer


logger = logging.get_logger(__name__)


def train(arguments: list[str] | None = None, prog: str | None = None, examples: str = "") -> None:
    """Train or fine-tune an image classifier with SimA, or swap a trained one's softmax for SimA and go on.

    Args:
        arguments: `[CONFIG.json] [--name value ...]`, fields of `ModelArguments`, `DataArguments` and `SimATrainingArguments`;
            None: those of the process.
        prog: what the command is called in its help and messages.
        examples: shown at the end of the help.

    Raises:
        SystemExit: for whatever a user can mend, which has been printed; or after the help.
    """
    kinds = (ModelArguments, DataArguments, SimATrainingArguments)
    with failures_as_sentences(prog):
        model_args, data_args, args = parse(*kinds, arguments=arguments, prog=prog, examples=examples)
    with failures_as_sentences(prog, args.output_dir):
        setup = prepare(model_args, data_args, args)
        trainer = SimATrainer(setup.loaded.model, args, **trainer_arguments(setup, data_args))
        train_and_evaluate(trainer, setup)


def distill(arguments: list[str] | None = None, prog: str | None = None, examples: str = "") -> None:
    """Train a SimA student with a teacher's help: from its answers, and, for a swapped model and its original, from its attention.

    Args:
        arguments: as for `train`, with the fields of `DistillationArguments` as well.
        prog, examples: as for `train`.

    Raises:
        SystemExit: as `train`.
    """
    kinds = (ModelArguments, DataArguments, DistillationArguments, SimATrainingArguments)
    with failures_as_sentences(prog):
        model_args, data_args, distillation, args = parse(*kinds, arguments=arguments, prog=prog, examples=examples)
    if not distillation.needs_teacher:
        logger.warning(
            "No teacher takes part: choose --distillation_type soft or hard, or an --attention_weight above 0."
        )
    with failures_as_sentences(prog, args.output_dir):
        setup = prepare(model_args, data_args, args)
        trainer = SimADistillationTrainer(
            setup.loaded.model,
            args,
            teacher=build_teacher(
                distillation, model_args, setup.loaded.model, setup.processor, setup.loaded.image_size
            ),
            distillation_type=distillation.distillation_type,
            distillation_alpha=distillation.distillation_alpha,
            distillation_tau=distillation.distillation_tau,
            attention_weight=distillation.attention_weight,
            **trainer_arguments(setup, data_args),
        )
        train_and_evaluate(trainer, setup)
