"""What the loopback Hub answers: a table of routes, and one short method each.

Read from the requests that huggingface_hub 2.4 sends (hf_api.py, _commit_api.py, lfs.py, file_download.py), and from the
statuses and headers that its `hf_raise_for_status` tells apart. Requests that the table lacks are answered 501.
"""

import base64
import json
import re
from urllib.parse import parse_qs, unquote

from tests.helpers.hub import cards
from tests.helpers.hub.exchange import REPOSITORY, REVISION, Answer, Request, as_json
from tests.helpers.hub.files import FILE_ROUTES, STORAGE_ROUTES, FileAnswers
from tests.helpers.hub.store import Refusal, Repository, is_large


HUB_ROUTES = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("POST", "/api/repos/create", "create"),
    ("GET", rf"{REPOSITORY}(?:/revision{REVISION})?", "info"),
    ("GET", rf"{REPOSITORY}/tree{REVISION}(?:/(?P<folder>.+))?", "tree"),
    ("POST", rf"{REPOSITORY}/paths-info{REVISION}", "paths_info"),
    ("GET", f"{REPOSITORY}/refs", "refs"),
    ("GET", rf"{REPOSITORY}/commits{REVISION}", "commits"),
    ("GET", f"{REPOSITORY}/discussions", "discussions"),
    ("GET", f"{REPOSITORY}/auth-check(?P<write>/write)?", "auth_check"),
    ("POST", rf"{REPOSITORY}/preupload{REVISION}", "preupload"),
    ("POST", rf"{REPOSITORY}/commit{REVISION}", "commit"),
    ("POST", f"{REPOSITORY}/branch/(?P<branch>[^/]+)", "branch"),
    ("POST", rf"{REPOSITORY}/tag{REVISION}", "tag"),
    *FILE_ROUTES,
]


class Answers(FileAnswers):
    """The Hub's side. `storage` in `answer` stands for the other origin, where large files lie."""

    def answer(self, request: Request, storage: bool = False) -> Answer:
        """The answer of the route that fits; HEAD is answered as GET. Refusal, if that is the answer."""
        method = "GET" if request.method == "HEAD" else request.method
        for verb, pattern, name in STORAGE_ROUTES if storage else HUB_ROUTES:
            match = re.fullmatch(pattern, request.path)
            if verb == method and match:
                found = {key: unquote(text) if text else text for key, text in match.groupdict().items()}
                if "kind" in found:
                    found["kind"] = found["kind"] or "models"
                return getattr(self, name)(request, **found)
        raise Refusal(501, f"The loopback Hub of the tests has no answer to {request.method} {request.path}.")

    # -- accounts and repositories

    def whoami(self, request: Request) -> Answer:
        """The token's owner."""
        account = request.account
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": account.role}}
        organizations = [{"type": "org", "name": name} for name in account.organizations]
        return as_json({"type": "user", "name": account.name, "orgs": organizations, "auth": token})

    def validate_yaml(self, request: Request) -> Answer:
        """The card's problems."""
        errors, warnings = cards.problems(request.json()["content"])
        lists = {
            "errors": [{"message": text} for text in errors],
            "warnings": [{"message": text} for text in warnings],
        }
        return as_json(lists, 400 if errors else 200)

    def create(self, request: Request) -> Answer:
        """A new repository."""
        wanted, account = request.json(), request.account
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        namespace, kind = wanted.get("organization") or account.name, wanted.get("type", "model")
        if not account.may_write(namespace):
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
        name = f"{namespace}/{wanted['name']}"
        url = "/".join([self.endpoint, *([] if kind == "model" else [f"{kind}s"]), name])
        try:
            self.store.create(f"{kind}s", name, wanted.get("visibility") == "private", account.name)
        except Refusal as refusal:
            return as_json({"error": refusal.message, "url": url}, refusal.status, X_Error_Message=refusal.message)
        return as_json({"url": url, "name": name})

    def auth_check(self, request: Request, kind: str, name: str, write: str | None) -> Answer:
        """Whether the token may read or write."""
        self.open_gate(request, self.repository(request, kind, name, bool(write)))
        return as_json({})

    def info(self, request: Request, kind: str, name: str, revision: str | None) -> Answer:
        """What the Hub says of a repository at a revision."""
        repository = self.repository(request, kind, name)
        oid = repository.resolve(revision or "main")
        commit, information = repository.read_commit(oid), repository.info
        with_sizes = request.query.get("blobs", [""])[0].lower() in ("1", "true")
        texts = {path: self._text(repository, commit["files"].get(path)) for path in ("README.md", "config.json")}
        said = {
            "author": name.split("/")[0],
            "sha": oid,
            "lastModified": commit["date"],
            "createdAt": information["createdAt"],
            "private": information["private"],
            "gated": "manual" if information["gated"] else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "siblings": [self._sibling(path, entry, with_sizes) for path, entry in commit["files"].items()],
            **cards.facts(texts["README.md"], self._config(texts["config.json"]), list(commit["files"])),
        }
        wanted = [key for value in request.query.get("expand", []) for key in value.split(",")]
        return as_json({"id": name, **{key: said[key] for key in wanted or said if key in said}})

    @staticmethod
    def _text(repository: Repository, entry: dict | None) -> str:
        return repository.content(entry).read_text() if entry else ""

    @staticmethod
    def _config(text: str) -> dict:
        try:
            return json.loads(text or "{}")
        except ValueError:  # anybody may upload that
            return {}

    @staticmethod
    def _sibling(path: str, entry: dict, with_sizes: bool) -> dict:
        if not with_sizes:
            return {"rfilename": path}
        lfs = {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if entry["lfs"] else {}
        return {"rfilename": path, "size": entry["size"], "blobId": entry["oid"], **lfs}

    # -- revisions

    def _listed(self, path: str, entry: dict) -> dict:
        return {"type": "file", "path": path, "oid": entry["oid"], "size": entry["size"]} | (
            {"lfs": entry["lfs"]} if entry["lfs"] else {}
        )

    def tree(self, request: Request, kind: str, name: str, revision: str, folder: str | None) -> Answer:
        """The files of a revision, with folders if it is not recursive."""
        files = self.repository(request, kind, name).files(revision)
        start = f"{folder.strip('/')}/" if folder else ""
        inside = {path: entry for path, entry in files.items() if path.startswith(start)}
        if start and not inside:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        if request.query.get("recursive", [""])[0].lower() == "true":
            return as_json([self._listed(path, entry) for path, entry in inside.items()])
        flat = [self._listed(path, entry) for path, entry in inside.items() if "/" not in path[len(start) :]]
        folders = {start + path[len(start) :].split("/")[0] for path in inside if "/" in path[len(start) :]}
        return as_json(
            [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)] + flat
        )

    def paths_info(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        """Those of the named paths that are there."""
        files = self.repository(request, kind, name).files(revision)
        paths = parse_qs(request.body.decode()).get("paths", [])
        return as_json([self._listed(path, files[path]) for path in paths if path in files])

    def refs(self, request: Request, kind: str, name: str) -> Answer:
        """Branches and tags, and pull requests if they are asked for."""
        said = {"converts": [], "pullRequests": []}
        for group, place in (("branches", "heads"), ("tags", "tags")):
            found = self.repository(request, kind, name).refs[group]
            said[group] = [{"name": n, "ref": f"refs/{place}/{n}", "targetCommit": oid} for n, oid in found.items()]
        if "include_prs" in request.query:
            found = self.repository(request, kind, name).refs["pulls"]
            said["pullRequests"] = [{"name": ref[5:], "ref": ref, "targetCommit": oid} for ref, oid in found.items()]
        return as_json(said)

    def commits(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        """The history, in one page."""
        history = self.repository(request, kind, name).history(revision)
        return as_json(
            [
                {"id": one["oid"], "authors": [{"user": one["author"]}]}
                | {key: one[key] for key in ("date", "title", "message")}
                for one in history
            ]
        )

    def discussions(self, request: Request, kind: str, name: str) -> Answer:
        """There are none."""
        self.repository(request, kind, name)
        return as_json({"discussions": [], "count": 0, "start": 0, "numClosedDiscussions": 0})

    def branch(self, request: Request, kind: str, name: str, branch: str) -> Answer:
        """A new branch."""
        start = request.json().get("startingPoint", "main")
        self.repository(request, kind, name, write=True).add_ref("branches", branch, start)
        return as_json({})

    def tag(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        """A new tag."""
        self.repository(request, kind, name, write=True).add_ref("tags", request.json()["tag"], revision)
        return as_json({})

    # -- commits

    def preupload(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        """How each file is to be sent, and what is there under its name."""
        files = self.repository(request, kind, name, write=True).files(revision)
        said = []
        for file in request.json()["files"]:
            entry = files.get(file["path"])
            large = is_large(file["path"], file["size"], base64.b64decode(file["sample"]))
            said.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": (entry["lfs"] or entry)["oid"] if entry else None,
                }
            )
        return as_json({"files": said})

    def commit(self, request: Request, kind: str, name: str, revision: str) -> Answer:
        """All files of a payload in one commit, or none."""
        if "create_pr" in request.query:
            raise Refusal(501, "The loopback Hub of the tests opens no pull requests for a commit.")
        repository = self.repository(request, kind, name, write=True)
        lines = [json.loads(line) for line in request.body.splitlines() if line]
        if not lines or lines[0]["key"] != "header":
            raise Refusal(400, "The first line must be the header.")
        operations = [(line["key"], line["value"]) for line in lines[1:]]
        oid = repository.commit(revision, lines[0]["value"], operations, request.account.name)
        return as_json({"success": True, "commitOid": oid, "commitUrl": f"{self.endpoint}/{name}/commit/{oid}"})
