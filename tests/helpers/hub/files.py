"""Files of the loopback Hub: where a reader finds one, where a writer sends a large one, and the storage that keeps those.

The storage plays the part of the Hub's object store and CDN: another origin, which knows no tokens, only addresses that
the Hub has signed. Large files travel by the LFS protocol, "basic".
"""

import hmac
from urllib.parse import quote

from tests.helpers.hub.exchange import PLAIN, REVISION, Answer, Request, Rights, as_json
from tests.helpers.hub.store import Refusal, Repository, Store


STORED = r"/(?P<kind>models|datasets|spaces)/(?P<name>[\w.-]+/[\w.-]+)/(?P<sha256>[0-9a-f]{64})"
CACHED = r"/api/resolve-cache/(?P<kind>models|datasets|spaces)/(?P<name>[\w.-]+/[\w.-]+)"
FILE_ROUTES = [
    ("POST", rf"{PLAIN}\.git/info/lfs/objects/batch", "large_batch"),
    ("POST", f"/api/verify{STORED}", "large_verify"),
    ("GET", rf"{PLAIN}/resolve{REVISION}/(?P<path>.+)", "resolve"),
    ("GET", rf"{CACHED}{REVISION}/(?P<path>.+)", "small"),
]
STORAGE_ROUTES = [
    ("GET", f"/objects{STORED}", "send_large"),
    ("PUT", f"/upload{STORED}", "receive_large"),
]


class FileAnswers(Rights):
    """What is answered about files."""

    def __init__(self, store: Store):
        super().__init__(store)
        self.endpoint = self.storage = ""  # set by the server, which knows its ports

    # -- large files, on their way here

    def _signed(self, action: str, place: str) -> str:
        """An address of the storage that is good for one action."""
        return f"{self.storage}/{action}/{place}?signature={self._signature(action, place)}"

    @staticmethod
    def _signature(action: str, place: str) -> str:
        return hmac.new(b"loopback", f"{action}/{place}".encode(), "sha256").hexdigest()

    def _stored(self, request: Request, action: str, kind: str, name: str, sha256: str) -> Repository:
        if request.query.get("signature") != [self._signature(action, f"{kind}/{name}/{sha256}")]:
            raise Refusal(403, "The signature of the address does not match.")
        return self.store.find(kind, name)

    def large_batch(self, request: Request, kind: str, name: str) -> Answer:
        """Where to send each large file that is not there yet."""
        repository, wanted = self.repository(request, kind, name, write=True), request.json()
        objects = []
        for one in wanted["objects"]:
            place, said = f"{kind}/{name}/{one['oid']}", {"oid": one["oid"], "size": one["size"]}
            if not repository.has_large(one["oid"], one["size"]):
                verify = {"href": f"{self.endpoint}/api/verify/{place}"}
                said["actions"] = {"upload": {"href": self._signed("upload", place)}, "verify": verify}
            objects.append(said)
        return as_json({"transfer": "basic", "objects": objects})

    def receive_large(self, request: Request, kind: str, name: str, sha256: str) -> Answer:
        """A large file."""
        repository = self._stored(request, "upload", kind, name, sha256)
        repository.keep_large(sha256, request.body)
        return Answer(200, {"ETag": f'"{sha256}"'})

    def large_verify(self, request: Request, kind: str, name: str, sha256: str) -> Answer:
        """Whether a large file has arrived."""
        if not self.repository(request, kind, name, write=True).has_large(sha256, request.json()["size"]):
            raise Refusal(404, "The object has not arrived.")
        return as_json({})

    # -- downloads

    def _file(self, request: Request, kind: str, name: str, revision: str, path: str) -> tuple[Repository, str, dict]:
        repository = self.repository(request, kind, name)
        self.open_gate(request, repository)
        oid = repository.resolve(revision)
        return repository, oid, repository.entry(oid, path)

    def resolve(self, request: Request, kind: str, name: str, revision: str, path: str) -> Answer:
        """A file's address: small files lie on the Hub itself (307), large ones in the storage (302)."""
        _, oid, entry = self._file(request, kind, name, revision, path)
        tag = (entry["lfs"] or entry)["oid"]
        headers = {"X-Repo-Commit": oid, "X-Linked-Size": str(entry["size"]), "X-Linked-ETag": f'"{tag}"'}
        if entry["lfs"]:
            return Answer(302, {**headers, "Location": self._signed("objects", f"{kind}/{name}/{tag}")})
        return Answer(307, {**headers, "Location": f"/api/resolve-cache/{kind}/{name}/{oid}/{quote(path)}"})

    def small(self, request: Request, kind: str, name: str, revision: str, path: str) -> Answer:
        """A small file's content."""
        repository, oid, entry = self._file(request, kind, name, revision, path)
        return Answer(200, {"X-Repo-Commit": oid, "ETag": f'"{entry["oid"]}"'}, repository.content(entry))

    def send_large(self, request: Request, kind: str, name: str, sha256: str) -> Answer:
        """A large file's content."""
        repository = self._stored(request, "objects", kind, name, sha256)
        return Answer(200, {"ETag": f'"{sha256}"'}, repository.folder / "lfs" / sha256)
