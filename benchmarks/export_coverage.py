"""Which models export to which format: every row of `supported_models()` and the native variants, each one tried, row by row.

Hosts are the tiny models of the tests; native variants have their own widths, patches and images, and two blocks. A row is tried
in a process of its own, with a time limit, and written when it is done, so that a run that was stopped goes on where it was.

python benchmarks/export_coverage.py --output_dir benchmarks/results --page docs/export.md        # or: make export-coverage
"""

import argparse
import csv
import json
import multiprocessing
import platform
import signal
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the tiny hosts of the tests, which no package holds

import torch  # noqa: E402

import sima_hf  # noqa: E402
from sima_hf.bench.tables import replace_between  # noqa: E402
from sima_hf.errors import ExportError  # noqa: E402
from sima_hf.exporting.formats import DYNAMIC, FORMATS, find_format, versions_of  # noqa: E402
from sima_hf.machine.description import device_name, git_revision  # noqa: E402
from tests.helpers.hosts.at_hand import TYPES, given, make, type_of  # noqa: E402


FIELDS = (
    "format",
    "model_type",
    "model",
    "exports",
    "agrees",
    "softmax_free",
    "dynamic",
    "error",
    "reason",
    "seconds",
)
NAME = "export_coverage"
BLOCKS = 2  # of a native variant


def cases() -> dict[str, tuple]:
    """What is tried, by the name of its row: a host's tiny model, or a variant of the native one."""
    hosts = {type_of(case): (case, name) for case, name in TYPES}
    rows = {row["model_type"]: hosts.get(row["model_type"]) for row in sima_hf.supported_models()}
    return {**rows, **{name: ("native", name) for name in sima_hf.SIMA_VARIANTS}}


def model_of(case: tuple) -> tuple:
    """The model, and its inputs where they cannot be made up."""
    kind, name = case
    if kind == "native":
        config = sima_hf.SimAConfig.from_variant(name, num_hidden_layers=BLOCKS)
        return sima_hf.SimAForImageClassification(config).eval(), None
    return sima_hf.patch_model(make(kind, name)), given(kind, name)


def try_one(form: str, dynamic: str, case: tuple, out) -> None:
    """Export, and put what came of it into a queue."""
    torch.manual_seed(0)
    model, inputs = model_of(case)
    found = {"model": type(model).__name__}
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = sima_hf.export(model, Path(folder) / "out", form, dynamic=dynamic, inputs=inputs)
        found |= {
            "exports": "yes",
            "agrees": "yes",
            "softmax_free": "yes"
            if made.certificate.softmax_free
            else "no"
            if made.certificate.in_swapped
            else "elsewhere",
            "dynamic": made.dynamic,
            "error": f"{made.agreement.error:.1e}",
            "reason": made.fixed_because or "",
        }
    except ExportError as error:
        differs = "differs from the model" in str(error)
        found |= {"exports": "yes" if differs else "no", "agrees": "no" if differs else "", "reason": str(error)}
    out.put(found)


def within(limit: float, form: str, dynamic: str, row: str, case: tuple) -> dict:
    """One row of the results, of a process that is ended when it takes longer than `limit` seconds."""
    context = multiprocessing.get_context("fork")
    out, start = context.Queue(), time.monotonic()
    process = context.Process(target=try_one, args=(form, dynamic, case, out))
    process.start()
    found = None
    while found is None and process.is_alive() and time.monotonic() - start < limit:
        process.join(0.2)
        found = None if out.empty() else out.get()
    found = out.get() if found is None and not out.empty() else found
    if found is None:
        ended = process.exitcode
        late = f"not done after {limit:g} s"
        found = {
            "model": case[1],
            "exports": "no",
            "reason": late if ended is None else f"the process ended ({ended})",
        }
    if process.is_alive():
        process.join(5)
        process.kill()
    seconds = f"{time.monotonic() - start:.0f}"
    return dict.fromkeys(FIELDS, "") | found | {"format": form, "model_type": row, "seconds": seconds}


def read(path: Path) -> dict[tuple[str, str], dict]:
    """The rows that are there, by format and name."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["format"], row["model_type"]): row for row in csv.DictReader(file)}


def write(path: Path, rows: dict[tuple[str, str], dict]) -> None:
    """All rows, in the order of formats and of the table of hosts."""
    order = [(form, name) for form in FORMATS for name in cases()]
    aside = path.with_suffix(".tmp")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in order if key in rows)
    aside.replace(path)


WORDS = {"resolution": "any number, any size", "batch": "any number", "none": "one shape"}


def cell(row: dict | None) -> str:
    """What the table says of a row in one format."""
    if row is None:
        return "not tried"
    if row["agrees"] != "yes":
        return "no"
    return WORDS[row["dynamic"]] + {"yes": "", "elsewhere": "; softmax in what is not swapped"}[row["softmax_free"]]


def markdown(rows: dict, conditions: dict) -> str:
    """Counts, the table, and the reasons below it."""
    names = list(cases())
    hosts = [row["model_type"] for row in sima_hf.supported_models()]
    lines = []
    for form in FORMATS:
        tried = [rows[form, name] for name in names if (form, name) in rows]
        if tried:
            of_hosts = [rows[form, name] for name in hosts if (form, name) in rows]
            agree = sum(row["agrees"] == "yes" for row in of_hosts)
            left = sum(row["softmax_free"] == "no" for row in of_hosts)
            free = sum(row["softmax_free"] == "yes" for row in of_hosts)
            native = [row["agrees"] for row in tried if row["model_type"] not in hosts]
            of_native = (
                f"; {native.count('yes')} of {len(native)} native variants" if native else "; no native variant tried"
            )
            lines.append(
                f"- {form}: {agree} of {len(of_hosts)} model types export and agree, {left or 'none'} with softmax or exp in what was "
                f"swapped, {free} with none at all in attention{of_native}."
            )
    device, versions = conditions["device"], ", ".join(f"{name} {one}" for name, one in conditions["versions"].items())
    lines += ["", f"Run on {device}, with {versions}; {conditions['models']}.", ""]
    shown = [form for form in FORMATS if any(key[0] == form for key in rows)]
    lines += ["<details><summary>Every model type</summary>", "", f"| model type | {' | '.join(shown)} |"]
    lines += ["|" + "---|" * (len(shown) + 1)]
    lines += [f"| `{name}` | {' | '.join(cell(rows.get((form, name))) for form in shown)} |" for name in names]
    lines += ["", "</details>"]
    failed = [row for key, row in rows.items() if row["agrees"] != "yes"]
    if failed:
        lines += ["", "<details><summary>What does not export, and why</summary>", ""]
        lines += ["| model type | format | because |", "|---|---|---|"]
        lines += [
            f"| `{row['model_type']}` | {row['format']} | {row['reason'].replace('|', '/').replace('<', '&lt;')} |"
            for row in failed
        ]
        lines += ["", "</details>"]
    return "\n".join(lines)


def main() -> None:
    """Try what is not in the results yet, and write table and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, help="page of the docs to write the table into")
    parser.add_argument(
        "--formats", nargs="*", choices=list(FORMATS), help="those whose packages are installed by default"
    )
    parser.add_argument("--models", nargs="*", help="rows to try, all by default")
    parser.add_argument("--dynamic", choices=DYNAMIC, default="batch", help="what is asked for")
    parser.add_argument(
        "--again", action="store_true", help="try rows again that did not export or that could be less dynamic only"
    )
    parser.add_argument("--limit", type=float, default=150, help="seconds for a row")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    results = arguments.output_dir / f"{NAME}.csv"
    rows, tried = read(results), cases()
    installed = [name for name, form in FORMATS.items() if all(map(find_spec, form.packages))]
    for form in arguments.formats or installed:
        find_format(form)  # what takes seconds to import is there before the processes are made
        for name in arguments.models or tried:
            known = rows.get((form, name))
            best = known and known["agrees"] == "yes" and known["dynamic"] == arguments.dynamic
            if known and (best or not arguments.again):
                continue
            case = tried[name]
            row = within(arguments.limit, form, arguments.dynamic, name, case)
            row["reason"] = " ".join(row["reason"].split()).replace(str(ROOT), "")[:300]
            rows = read(results) | {(form, name): row}
            write(results, rows)
            print(form, name, *(row[field] for field in FIELDS[3:]), flush=True)
    versions = {"sima_hf": sima_hf.__version__}
    for form in FORMATS.values():
        versions |= versions_of(form)
    conditions = {
        "device": device_name("cpu"),
        "models": f"hosts are tiny models with random weights, native variants have {BLOCKS} blocks and their own widths",
        "versions": versions,
        "python": platform.python_version(),
        "revision": git_revision(),
    }
    (arguments.output_dir / f"{NAME}.json").write_text(json.dumps(conditions, indent=2) + "\n", encoding="utf-8")
    if arguments.page:
        replace_between(arguments.page, "coverage", markdown(rows, conditions))


if __name__ == "__main__":
    main()
