"""Requests, answers and rights of the loopback Hub: who asks, and what that account may read and write."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.hub.store import Refusal, Repository, Store


REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[\w.-]+/[\w.-]+)"
PLAIN = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[\w.-]+/[\w.-]+?)"
REVISION = r"/(?P<revision>[^/]+)"


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to: a user's name, the namespaces it may write to, and which of those for reading only."""

    name: str
    role: str = "write"
    organizations: tuple[str, ...] = ()

    def may_write(self, namespace: str) -> bool:
        """Whether it may write to repositories of a user or an organization."""
        return self.role == "write" and self.may_read(namespace)

    def may_read(self, namespace: str) -> bool:
        """Whether it may read the private repositories of a user or an organization."""
        return namespace in (self.name, *self.organizations)


@dataclass
class Request:
    """One request: `path` is still percent-encoded, `account` is None without a token."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    account: Account | None

    def json(self) -> dict:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Answer:
    """A status, headers, and a body: bytes, or a file that is sent in the range that was asked for."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Path = b""


def as_json(value, status: int = 200, **headers: str) -> Answer:
    """An answer in JSON."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode())


class Rights:
    """Which repositories a request may read and write."""

    def __init__(self, store: Store):
        self.store = store

    def repository(self, request: Request, kind: str, name: str, write: bool = False) -> Repository:
        """A repository that the request may read or write; 401, 403 or 404 otherwise, as the Hub tells them apart."""
        found, account = self.store.find(kind, name), request.account
        namespace = name.split("/")[0]
        hidden = found is None or (found.info["private"] and not (account and account.may_read(namespace)))
        if account is None and (hidden or write):
            # The client takes this 401 for a missing repository by its https:// address; here there is none, so say it.
            raise Refusal(401, "Invalid username or password.", "RepoNotFound" if hidden else None)
        if hidden:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write and not account.may_write(namespace):
            raise Refusal(403, f"Forbidden: you must use a token with write access to {name}")
        return found

    def open_gate(self, request: Request, repository: Repository) -> None:
        gate, name = repository.info["gated"], repository.info["id"]
        if gate and request.account is None:
            text = (
                f"Access to model {name} is restricted. You must have access to it and be authenticated to access it."
            )
            raise Refusal(401, text, "GatedRepo")
        if gate and request.account.name not in gate:
            raise Refusal(
                403, f"Access to model {name} is restricted and you are not in the authorized list.", "GatedRepo"
            )
