"""A Hub on loopback: the HTTP server that the publishing tests push to and load from.

What it is: a test double of the parts of the Hub's protocol that huggingface_hub 2.4 and Transformers 5.23 use for
models: accounts, repositories, revisions, one-commit uploads with regular and LFS files, model
info, file addresses with ETags and redirects, byte ranges, and the errors 401, 403, 404, 409 and 429 as the client tells
them apart. The client in the tests is the real one; files lie on disk. It was written from the client's source, so where
the client is lenient, the double may be so too.

What it is not: the Hub. No git, no pull requests but those that a test opens, no web pages, no search, no Xet (the client
takes Xet without asking the server wherever `hf_xet` is installed, so `environment` sets HF_HUB_DISABLE_XET, and plain LFS
is what is tested). It measures nothing, and keeps nobody out: the tokens are words.
"""

import os
import threading
from pathlib import Path

from tests.helpers.hub.answers import Answers
from tests.helpers.hub.exchange import Account
from tests.helpers.hub.handler import Fault, Listener, Record
from tests.helpers.hub.store import Refusal, Store


class HubServer:
    """A Hub that runs while the `with` block does, over the files in a folder (which may be there from before).

    Args:
        folder: where repositories lie.

    Attributes:
        endpoint: what HF_ENDPOINT is to be. storage: the origin that keeps large files.
        token: of "somebody", who may write to "org"; read_token: of the same, for reading only; other_token: of
            "stranger", who is in no organization. log: every request, as `Record`.
        failures: tracebacks of the double's own mistakes; a test that ends should find none.
    """

    token, read_token, other_token = "hf_write", "hf_read", "hf_other"

    def __init__(self, folder: Path):
        self.store = Store(Path(folder))
        self.answers = Answers(self.store)
        self.accounts = {
            self.token: Account("somebody", "write", ("org",)),
            self.read_token: Account("somebody", "read", ("org",)),
            self.other_token: Account("stranger"),
        }
        self.log: list[Record] = []
        self.failures: list[str] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []

    def __enter__(self) -> "HubServer":
        self._listeners = [Listener(self, storage=False), Listener(self, storage=True)]
        # Two names of one host: huggingface_hub 1.x tells origins apart by their names alone, later ones by the ports as well.
        names = ("127.0.0.1", "localhost")
        self.endpoint, self.storage = (
            f"http://{name}:{one.server_address[1]}" for name, one in zip(names, self._listeners, strict=True)
        )
        self.answers.endpoint, self.answers.storage = self.endpoint, self.storage
        for listener in self._listeners:
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, open connections included; again is nothing."""
        while self._listeners:
            self._listeners.pop().stop()

    # -- what tests ask

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path with query, and status of every request."""
        return [record[:3] for record in self.log]

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """All variables of a process that knows this Hub alone, with its caches under `home`.

        Of the caller's it has the kernels that sima_hf has compiled for this machine, which takes seconds, the sima_hf that is
        tested, be it installed or not, and no more.
        """
        words = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HOME": str(home),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
        }
        return {**words, **({"HF_TOKEN": token} if token else {}), **more}

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a model's revision, by name."""
        repository = self._repository(repo_id)
        return {path: repository.content(entry).read_bytes() for path, entry in repository.files(revision).items()}

    def commits(self, repo_id: str, revision: str = "main") -> list[dict]:
        """A model's commits, the newest first; the last is the Hub's own. [] without such a repository."""
        return self._repository(repo_id).history(revision) if self.store.find("models", repo_id) else []

    def info(self, repo_id: str) -> dict:
        """Privacy, gate and date of a model's repository."""
        return self._repository(repo_id).info

    def _repository(self, repo_id: str):
        repository = self.store.find("models", repo_id)
        if repository is None:
            raise KeyError(f"There is no repository {repo_id} on the loopback Hub.")
        return repository

    # -- what tests change

    def gate(self, repo_id: str, *names: str) -> None:
        """Let only these users at a model's files."""
        self._repository(repo_id).change_info({"gated": list(names) or ["nobody"]})

    def open_pull_request(self, repo_id: str) -> str:
        """Open a pull request to a model without changes, as somebody's page does; its ref, such as "refs/pr/1"."""
        return self._repository(repo_id).open_pull_request()

    def drop_upload_after(self, n_bytes: int, times: int = 1, within: str = "/upload/") -> None:
        """Cut the next requests whose path has `within` when `n_bytes` of their body have come (in pieces of 64 KB)."""
        self._faults.append(Fault("upload", within, times, after=n_bytes))

    def limit_rate(self, n_requests: int, seconds: int = 0, within: str = "") -> None:
        """Answer 429 to the next requests, with a Retry-After; the client itself waits one second longer."""
        self._faults.append(Fault("rate", within, n_requests, seconds=seconds))

    def end_faults(self) -> None:
        """What has been ordered and has not happened will not."""
        with self._lock:
            self._faults.clear()

    # -- what the handlers ask

    def account(self, header: str | None) -> Account | None:
        """Whose token a request bears; 401 for one that is nobody's."""
        token = (header or "").removeprefix("Bearer ")
        if token and token not in self.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.accounts.get(token)

    def take_fault(self, kind: str, path: str) -> Fault | None:
        """The fault that is due for a request, counted down."""
        with self._lock:
            for fault in self._faults:
                if fault.kind == kind and fault.times > 0 and fault.within in path:
                    fault.times -= 1
                    return fault
        return None
