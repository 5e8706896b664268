"""A process that knows nothing but the loopback Hub, and does line by line what a test tells it.

The Hub's client reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported, and pytest's own process is offline,
so everything that talks to the server runs in a process of its own. `Client.run` sends code and returns the value of its
last line; `Client.apart` does so in a fork of the process with an empty cache, which has everything that the process had
imported and has loaded nothing: a fresh process without the seconds that importing Transformers takes.
"""

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path


class ClientError(Exception):
    """What went wrong in the process: the exception's class and its bases by name, its text, and the traceback."""

    def __init__(self, kinds: list[str], text: str, trace: str):
        super().__init__(f"{kinds[0]}: {text}\n{trace}")
        self.kinds, self.text = kinds, text


class Client:
    """A process to talk to; a context manager that ends it.

    Args:
        environment: all of its variables (`HubServer.environment`).
        log: where it prints to.
        before: code that is run first, imports above all.
    """

    def __init__(self, environment: dict[str, str], log: Path, before: str = ""):
        self.home, self.log = Path(environment["HF_HOME"]), Path(log)
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as printed:
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                env=environment,
                cwd=self.log.parent,
                text=True,
            )
        self.run(before)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)

    @property
    def printed(self) -> str:
        """What it has printed since it started, warnings and progress included."""
        return self.log.read_text(errors="replace")

    def run(self, code: str, **variables: str):
        """Run code in the process; the value of its last line, as JSON knows it. ClientError, if it raises."""
        return self._ask({"code": code, "environment": variables, "fork": False})

    def apart(self, code: str, empty: bool = True, **variables: str):
        """As `run`, in a fork of the process, with these environment variables; with an `empty` cache, or as it is."""
        if empty:
            self.empty_cache()
        return self._ask({"code": code, "environment": variables, "fork": True})

    def empty_cache(self) -> None:
        """Take away everything that was downloaded."""
        shutil.rmtree(self.home)
        self.home.mkdir()

    def _ask(self, question: dict):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise ClientError(["EndOfProcess"], f"exit code {self.process.wait(30)}", self.printed[-3000:])
        answer = json.loads(line)
        if "kinds" in answer:
            raise ClientError(answer["kinds"], answer["text"], answer["trace"] + self.printed[-2000:])
        return answer["value"]


def _evaluate(code: str, names: dict) -> dict:
    try:
        tree = ast.parse(code)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<test>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<test>", "eval"), names) if last else None
        return {"value": value}
    except (Exception, SystemExit) as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"kinds": kinds, "text": str(error), "trace": traceback.format_exc()}


def _serve() -> None:
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nobody is there to answer what the code may ask
    os.dup2(2, 1)  # what it prints goes to the log
    names = {"__name__": "__main__"}
    for line in questions:
        question = json.loads(line)
        if question["fork"]:
            child = os.fork()
            if child:
                _, status = os.waitpid(child, 0)
                if status:
                    print(json.dumps({"kinds": ["EndOfProcess"], "text": str(status), "trace": ""}), file=answers)
                continue
        os.environ.update(question["environment"])
        answer = json.dumps(_evaluate(question["code"], names), default=str)
        sys.stdout.flush()  # whoever has the answer may look at what was printed
        print(answer, file=answers)
        if question["fork"]:
            break
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # what was asked is done; taking torch down in an orderly way takes seconds


if __name__ == "__main__":
    _serve()
