"""Training checkpoints that are whole or not there: written aside, sealed by a manifest, moved into place in one step."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from transformers.utils import logging

from ...errors import CheckpointError, TrainingError
from ...folders.atomic_folder import flush
from ...folders.file_names import PROVENANCE, is_record
from ...folders.manifest import PREFIX, checkpoints, damage, last_good, seal, step_of


logger = logging.get_logger(__name__)

# A folder of either kind is what a killed process left behind: a checkpoint half written, or one half removed.
_INCOMPLETE, _REMOVED = ".incomplete-", ".removed-"


@contextlib.contextmanager
def writing(
    run_dir: str | Path, step: int, seals: bool = True, wait: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """A folder to write a checkpoint into, which becomes `checkpoint-<step>` when the block has ended without an error.

    The folder gets a manifest of sizes and SHA-256 sums, everything in it is flushed to the disk, and one rename puts it in
    its place; a process killed before that leaves the earlier checkpoints as they were.

    Args:
        run_dir: folder of the run, on a file system that all processes share; made if need be.
        step: optimizer steps done.
        seals: whether this process makes the folder, writes the manifest and moves it; one does.
        wait: called where all processes must meet (a barrier).

    Raises:
        TrainingError: it could not be written, with the cause and the last good checkpoint.
    """
    run_dir = Path(run_dir)
    place, aside = run_dir / f"{PREFIX}{step}", run_dir / f"{_INCOMPLETE}{PREFIX}{step}"
    try:
        if seals:
            run_dir.mkdir(parents=True, exist_ok=True)
            remove_leftovers(run_dir)
            aside.mkdir()
        wait()
        yield aside
        wait()
        if seals:
            seal(aside, step)
            if place.exists():
                remove(place)
            aside.rename(place)
            flush(run_dir)
        wait()
    except Exception as error:
        if seals:
            shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(
            f"The checkpoint of step {step} could not be written to {run_dir}: {_cause(error)}. {last_good_sentence(run_dir)}"
        ) from error


def _cause(error: Exception) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    full = "No space left" in text or getattr(error, "errno", None) == 28
    return "the disk is full; free some space, or keep fewer checkpoints with --save_total_limit" if full else text


def why_not_resumed(folder: str | Path) -> str | None:
    """Why no run can go on from a checkpoint, as the rest of a sentence, or None if one can."""
    folder = Path(folder)
    trouble = damage(folder)
    # Trainer leaves the optimizer out without a word, at saving and at loading, and would start its warm-up again.
    if trouble is None and (folder / "trainer_state.json").is_file():
        states = ("optimizer*", "scheduler*", "global_step*")  # the last is DeepSpeed's
        if not any(next(folder.glob(pattern), None) for pattern in states):
            trouble = (
                "holds the model alone (--save_only_model), without its optimizer, so no run can go on from it; a new one can begin "
                f"with it: --model_name_or_path {folder}"
            )
    return trouble


def last_good_sentence(run_dir: str | Path) -> str:
    """Where to go on from after a failure."""
    path = last_good(run_dir, why_not=why_not_resumed)
    if path is None:
        return "There is no earlier checkpoint to go on from."
    return f"The last good checkpoint is {path}; go on with --resume_from_checkpoint last."


def checkpoint_to_resume(run_dir: str | Path, wanted: str | None) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means, checked file by file.

    Args:
        run_dir: folder of the run.
        wanted: "last" (or "true"), "auto" (the last good one, or none if there is none yet), a folder, or None.

    Raises:
        CheckpointError: there is none, or it is damaged or the model alone; the text names the one before it.
    """
    if not wanted or wanted.lower() == "false":
        return None
    automatic = wanted.lower() == "auto"
    if wanted.lower() in ("last", "auto", "true"):
        found = checkpoints(run_dir)
        if not found:
            if automatic:
                return None
            raise CheckpointError(f"{run_dir} has no checkpoint to go on from; leave out --resume_from_checkpoint.")
        path = found[-1]
    else:
        path = Path(wanted)
        if not path.is_dir():
            raise CheckpointError(f"There is no checkpoint {path}.")
    trouble = why_not_resumed(path)
    if trouble is None:
        return path
    earlier = last_good(path.parent, before=step_of(path), why_not=why_not_resumed)
    if automatic and earlier:
        logger.warning(f"{path} {trouble}. The run goes on from the newest good one, {earlier}.")
        return earlier
    remedy = (
        f"The one before it is good: --resume_from_checkpoint {earlier}" if earlier else "No good one is before it."
    )
    raise CheckpointError(f"{path} {trouble}. {remedy}")


def keep_newest(run_dir: str | Path, most: int | None, protected: str | Path | None = None) -> None:
    """Remove all but the newest `most` checkpoints, never a `protected` one; None or 0 keeps them all."""
    if not most:
        return
    for path in checkpoints(run_dir)[:-most]:
        if protected is None or path.resolve() != Path(protected).resolve():
            remove(path)


def remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill in the middle leaves none that looks whole."""
    aside = folder.with_name(f"{_REMOVED}{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def remove_leftovers(run_dir: str | Path) -> None:
    """Remove what killed processes left half written or half removed."""
    for kind in (_INCOMPLETE, _REMOVED):
        for path in Path(run_dir).glob(f"{kind}*"):
            shutil.rmtree(path, ignore_errors=True)


def belongs_to(checkpoint: str | Path | None, run_dir: str | Path) -> bool:
    """Whether a checkpoint is one of the run in a folder."""
    return checkpoint is not None and Path(checkpoint).resolve().parent == Path(run_dir).resolve()


def set_aside_newer(run_dir: str | Path, step: int) -> list[Path]:
    """Take the checkpoints after a step out of the way of a run that goes on from that step, under names of another kind.

    Else the branch that was given up would be what `--resume_from_checkpoint last` means, and what is kept.

    Returns:
        Where they are now.
    """
    moved = []
    for path in checkpoints(run_dir):
        if step_of(path) > step:
            place = path.with_name(f"abandoned-{path.name}")
            shutil.rmtree(place, ignore_errors=True)
            moved.append(path.rename(place))
    return moved


def check_output_dir(run_dir: str | Path, may_hold_a_run: bool) -> None:
    """Make sure that a run does not mix with what is in its folder already.

    Args:
        run_dir: folder of the run.
        may_hold_a_run: whether this one goes on from the run that is there, or is to take its place.

    Raises:
        CheckpointError: the folder holds a run, and neither was asked for.
    """
    run_dir = Path(run_dir)
    earlier = checkpoints(run_dir)
    if not may_hold_a_run and (earlier or (run_dir / "all_results.json").exists()):
        raise CheckpointError(
            f"{run_dir} holds a run already ({earlier[-1].name if earlier else 'all_results.json'}). Go on with "
            "--resume_from_checkpoint last, start over with --overwrite_output_dir True, or name another --output_dir."
        )


def remove_run(run_dir: str | Path) -> None:
    """Remove an earlier run's checkpoints, results and what else was measured of its model; other files are replaced as they are
    written, the provenance too, which a run that starts from this very folder needs until then.
    """
    for path in checkpoints(run_dir):
        remove(path)
    for path in Path(run_dir).glob("*"):
        if path.is_file() and path.name != PROVENANCE and is_record(path):
            path.unlink()
