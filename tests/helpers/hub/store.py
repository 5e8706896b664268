"""What the loopback Hub keeps: repositories as folders of content-addressed files, commits and refs as JSON.

    <root>/models/org/name/info.json     id, private, gated, date
                           refs.json     {"branches": {"main": commit}, "tags": {}, "pulls": {"refs/pr/1": commit}}
                           commits/*.json   one per commit: parent, title, date, author and every file of that revision
                           blobs/<git sha-1>   small files          lfs/<sha-256>   large ones

Commits and refs are written beside their place and moved there, refs last: a commit is there whole or not at all.
Nothing here knows HTTP; what is not there is a `Refusal`, which carries the status and the code that the Hub answers.
"""

import base64
import hashlib
import json
import os
import re
import threading
import uuid
from datetime import datetime, timezone
from pathlib import Path


LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".h5", ".pkl", ".npz", ".gz", ".zip", ".parquet")
LARGE_SIZE = 10 * 1024 * 1024  # bytes; above it a file of any name, and any binary one, is a large one
_NO_BRANCH = re.compile(  # what git-check-ref-format and git-branch refuse, and other kinds of refs
    r"HEAD|@|refs/.*|-.*|[0-9a-f]{40}|.*[\x00-\x20\x7f~^:?*\[\\].*|.*\.\..*|.*@\{.*|/.*|.*/|.*//.*|(.*/)?\..*|.*\.|.*\.lock(/.*)?"
)
FIRST_FILE = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES).encode()


class Refusal(Exception):
    """An answer that is an error: HTTP `status`, a `message` for people, the Hub's `code` (X-Error-Code) if it has one."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def now() -> str:
    """The time as the Hub writes it: UTC, to the millisecond."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def git_hash(content: bytes) -> str:
    """Git's name of a file's content: SHA-1 over a header and the content (git-hash-object)."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub takes a file apart from git: by its name, its size, or a NUL byte in its beginning."""
    return size > 0 and (path.endswith(LARGE_SUFFIXES) or size > LARGE_SIZE or b"\0" in sample)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that others see it whole or not at all."""
    beside = path.with_name(f".{uuid.uuid4().hex}")
    beside.write_bytes(content)
    os.replace(beside, path)


class Repository:
    """One repository in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, threading.RLock()
        for name in ("commits", "blobs", "lfs"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @classmethod
    def create(cls, folder: Path, repo_id: str, private: bool, author: str) -> "Repository":
        """A new one, with the first commit that the Hub makes itself."""
        repository = cls(folder)
        info = {"id": repo_id, "private": private, "gated": False, "createdAt": now()}
        repository.change_info(info)
        repository._write_refs({"branches": {}, "tags": {}, "pulls": {}})
        content = {"content": base64.b64encode(FIRST_FILE).decode(), "path": ".gitattributes", "encoding": "base64"}
        repository.commit("main", {"summary": "initial commit"}, [("file", content)], author)
        return repository

    # -- what is there

    @property
    def info(self) -> dict:
        """Id, privacy, gate, date."""
        return json.loads((self.folder / "info.json").read_text())

    @property
    def refs(self) -> dict[str, dict[str, str]]:
        """Branches, tags and pull requests, each a name and the commit it points to."""
        return json.loads((self.folder / "refs.json").read_text())

    def resolve(self, revision: str) -> str:
        """The commit of a branch, a tag, a pull request, a commit's hash or its beginning."""
        refs = self.refs
        name = re.sub(r"^refs/(heads|tags)/", "", revision)
        found = refs["branches"].get(name) or refs["tags"].get(name) or refs["pulls"].get(revision)
        if found is None and re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = next((path.stem for path in (self.folder / "commits").glob(f"{revision}*.json")), None)
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def read_commit(self, oid: str) -> dict:
        """A commit: its parent, title, message, date, author, and `files` by path."""
        return json.loads((self.folder / "commits" / f"{oid}.json").read_text())

    def history(self, revision: str) -> list[dict]:
        """The commits that lead to a revision, the newest first."""
        commits, oid = [], self.resolve(revision)
        while oid:
            commits.append({"oid": oid, **self.read_commit(oid)})
            oid = commits[-1]["parent"]
        return commits

    def files(self, revision: str) -> dict[str, dict]:
        """Every file of a revision: its git hash, size in bytes, and SHA-256 if it is a large one."""
        return self.read_commit(self.resolve(revision))["files"]

    def entry(self, oid: str, path: str) -> dict:
        """One file of a commit."""
        files = self.read_commit(oid)["files"]
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=oid)
        return files[path]

    def content(self, entry: dict) -> Path:
        """Where a file's content lies."""
        return self.folder / "lfs" / entry["lfs"]["oid"] if entry["lfs"] else self.folder / "blobs" / entry["oid"]

    def has_large(self, sha256: str, size: int | None = None) -> bool:
        """Whether a large file's content has arrived whole."""
        path = self.folder / "lfs" / sha256
        return path.is_file() and size in (None, path.stat().st_size)

    # -- what changes it

    def change_info(self, changes: dict) -> None:
        """Set some of the fields of `info`."""
        path = self.folder / "info.json"
        info = json.loads(path.read_text()) if path.exists() else {}
        write_whole(path, json.dumps({**info, **changes}).encode())

    def _write_refs(self, refs: dict) -> None:
        write_whole(self.folder / "refs.json", json.dumps(refs).encode())

    def add_ref(self, kind: str, name: str, revision: str) -> None:
        """A new branch (`kind` "branches") or tag ("tags") at a revision; a name that is taken is refused with 409, one that git
        does not allow, or a pull request's, with 400."""
        if _NO_BRANCH.fullmatch(name):
            raise Refusal(400, f"Invalid reference name: {name}")
        with self.lock:
            refs = self.refs
            if name in refs[kind]:
                raise Refusal(409, f"Reference already exists: {name}")
            refs[kind][name] = self.resolve(revision)
            self._write_refs(refs)

    def open_pull_request(self) -> str:
        """A new one, without changes, at the main branch's commit; its ref, "refs/pr/1" for the first."""
        with self.lock:
            refs = self.refs
            name = f"refs/pr/{len(refs['pulls']) + 1}"
            refs["pulls"][name] = self.resolve("main")
            self._write_refs(refs)
            return name

    def keep_large(self, sha256: str, content: bytes) -> None:
        """Store a large file's content, if it is what its name says."""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Refusal(400, "The content does not have the SHA-256 that was announced.")
        write_whole(self.folder / "lfs" / sha256, content)

    def commit(self, branch: str, header: dict, operations: list[tuple[str, dict]], author: str) -> str:
        """One commit on a branch or in a pull request: `operations` are the lines of the client's payload, (key, value) each. Its
        hash."""
        with self.lock:
            refs = self.refs
            group = refs["pulls" if branch in refs["pulls"] else "branches"]
            if branch not in group and refs["branches"]:
                raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            parent = group.get(branch)
            if header.get("parentCommit") not in (None, parent):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(self.read_commit(parent)["files"]) if parent else {}
            for key, value in operations:
                self._apply(files, key, value)
            record = {
                "parent": parent,
                "title": header["summary"],
                "message": header.get("description", ""),
                "date": now(),
                "author": author,
                "files": files,
            }
            content = json.dumps(record, sort_keys=True).encode()
            oid = hashlib.sha1(content).hexdigest()
            write_whole(self.folder / "commits" / f"{oid}.json", content)
            group[branch] = oid
            self._write_refs(refs)
            return oid

    def _apply(self, files: dict[str, dict], key: str, value: dict) -> None:
        path = value["path"]
        if path.startswith("/") or ".." in path.split("/") or ".git" in path.split("/"):
            raise Refusal(400, f"Invalid path: {path}")
        if key == "file":
            content = base64.b64decode(value["content"])
            if is_large(path, len(content), content[:512]):
                raise Refusal(400, f"Your push was rejected because it contains a binary file: {path}")
            oid = git_hash(content)
            write_whole(self.folder / "blobs" / oid, content)
            files[path] = {"oid": oid, "size": len(content), "lfs": None}
        elif key == "lfsFile":
            sha256 = value["oid"]
            if not self.has_large(sha256, value.get("size")):
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            size = (self.folder / "lfs" / sha256).stat().st_size
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
            lfs = {"oid": sha256, "size": size, "pointerSize": len(pointer)}
            files[path] = {"oid": git_hash(pointer), "size": size, "lfs": lfs}
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
            if not gone:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refusal(400, f"Unknown operation: {key}")


class Store:
    """The repositories under one folder, by type ("models", "datasets", "spaces") and id ("org/name")."""

    def __init__(self, root: Path):
        self.root, self.lock = root, threading.RLock()
        self._open: dict[tuple[str, str], Repository] = {}

    def find(self, kind: str, repo_id: str) -> Repository | None:
        """A repository, or None."""
        with self.lock:
            if (kind, repo_id) not in self._open and (self.root / kind / repo_id / "refs.json").exists():
                self._open[kind, repo_id] = Repository(self.root / kind / repo_id)
            return self._open.get((kind, repo_id))

    def create(self, kind: str, repo_id: str, private: bool, author: str) -> Repository:
        """A new one; one that is there is refused with 409."""
        with self.lock:
            if self.find(kind, repo_id):
                raise Refusal(409, f"You already created this {kind[:-1]} repo: {repo_id}")
            self._open[kind, repo_id] = Repository.create(self.root / kind / repo_id, repo_id, private, author)
            return self._open[kind, repo_id]
