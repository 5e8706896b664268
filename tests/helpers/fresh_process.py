"""Code in a process that has done nothing yet: forked from one that has imported torch and Transformers, and not sima_hf.

Importing them takes seconds, and is not what these tests are about; where it is, they start Python themselves.
"""

import functools
import json
import os
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

from tests.helpers.hub.client import Client


ROOT = Path(__file__).resolve().parents[2]
# Without names of their own: the code has to import what it uses.
IMPORTED = """
__import__("torch").set_num_threads(1)
for _ in ("torch._dynamo", "transformers.pipelines", "transformers.models.auto.modeling_auto", "PIL.Image"):
    __import__(_)
"""
# Output and errors go to files of their own, by descriptor: handlers of logging hold the streams of the import.
RUN = """
import os, sys, traceback
_folder, _code, _arguments = {folder!r}, {code!r}, {arguments!r}
for _number, _name in ((1, "out"), (2, "err")):
    os.dup2(os.open(os.path.join(_folder, _name), os.O_WRONLY | os.O_CREAT), _number)
sys.argv = ["-c", *_arguments]
try:
    exec(compile(_code, "<string>", "exec"), {{"__name__": "__main__"}})
    _status = 0
except SystemExit as _error:
    _status = _error.code if isinstance(_error.code, int) else int(_error.code is not None)
except BaseException:
    traceback.print_exc()
    _status = 1
for _stream in (sys.stdout, sys.stderr):
    _stream.flush()
_status
"""


@functools.cache
def _origin() -> Client:
    home = tempfile.mkdtemp(prefix="fresh-process-")
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Client({**os.environ, "HF_HOME": home, "PYTHONPATH": paths}, Path(home) / "log", IMPORTED)


def fresh(code: str, *arguments: object, **environment: str) -> CompletedProcess:
    """As `subprocess.run([sys.executable, "-c", code, *arguments])` with captured text, and these environment variables."""
    words = [str(one) for one in arguments]
    with tempfile.TemporaryDirectory() as folder:
        asked = RUN.format(folder=folder, code=code, arguments=words)
        status = _origin().apart(asked, empty=False, **environment)
        out, err = (Path(folder, name).read_text(errors="replace") for name in ("out", "err"))
    return CompletedProcess(json.dumps(words), status, out, err)
