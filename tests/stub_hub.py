"""A Hugging Face Hub on this machine, as far as its client asks for it."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.utils._http
import pytest

GOOD = "hf_goodtoken"
_NAME = r"/(?:api/models/)?([\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # oldest first

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision, and all files at it."""
        there = list(self.commits)
        sha = there[-1] if revision == "main" and there else revision
        return (sha, self.commits[sha]) if sha in self.commits else None

    def commit(self, added: dict[str, bytes]) -> str:
        now = self.files("main")
        after = (now[1] if now else {}) | added
        sha = hashlib.sha1(repr((len(self.commits), sorted(after))).encode()).hexdigest()
        self.commits[sha] = after
        return sha


@dataclass
class Stub:
    """What it holds, what it was asked, and what it answers instead (`broken`: a status)."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    broken: int = 0
    token: str = GOOD


@contextmanager
def serving() -> Iterator[Stub]:
    stub = Stub()
    handler = type("Handler", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    stub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    """The client of the Hub, talking to a stub, with a cache of its own and no pauses."""
    if not hasattr(huggingface_hub, "set_client_factory"):
        pytest.skip("before version 1 the client remembers that it was offline")
    theirs = huggingface_hub.constants
    monkeypatch.setattr(theirs, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(theirs, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)
    with serving() as stub:
        own = theirs.HUGGINGFACE_CO_URL_TEMPLATE.replace(theirs.ENDPOINT, stub.url)
        monkeypatch.setattr(theirs, "HUGGINGFACE_CO_URL_TEMPLATE", own)
        monkeypatch.setattr(theirs, "ENDPOINT", stub.url)
        yield stub


class _Handler(BaseHTTPRequestHandler):
    stub: Stub

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, status: int, content: Any = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        # As servers do that say too much.
        heard = str(self.headers.get("Authorization"))
        self._answer(status, {"error": heard}, X_Error_Code=code, X_Error_Message=heard)

    def _allowed(self, status: int = 401) -> bool:
        self.stub.asked.append(f"{self.command} {self.path}")
        known = self.headers.get("Authorization") == f"Bearer {GOOD}"
        if self.stub.broken:
            self._refuse(self.stub.broken)
        elif not known:
            self._refuse(status, "RepoNotFound" if "/resolve/" in self.path else "")
        return known and not self.stub.broken

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            self._answer(200, {"warnings": [], "errors": []})
        elif not self._allowed():
            return
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(_NAME + r"/(preupload|commit)/main", self.path):
            {"preupload": self._preupload, "commit": self._commit}[found[2]](found[1], body)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        private = asked.get("private") or asked.get("visibility") == "private"
        there = name in self.stub.repositories
        self.stub.repositories.setdefault(name, Repository(private=bool(private)))
        self._answer(409 if there else 200, {"url": f"{self.stub.url}/{name}"})

    def _preupload(self, _name: str, body: bytes) -> None:
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
        self._answer(200, {"files": modes})

    def _commit(self, name: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        sha = self.stub.repositories[name].commit(added)
        url = f"{self.stub.url}/{name}/commit/{sha}"
        self._answer(200, {"commitUrl": url, "commitOid": sha})

    def do_GET(self) -> None:
        found = re.fullmatch(_NAME + r"/resolve/([^/]+)/(.+)", self.path)
        if found is None:
            self._refuse(404)
            return
        repository = self.stub.repositories.get(found[1])
        if (repository is None or repository.private) and not self._allowed():
            return
        at = repository.files(found[2]) if repository else None
        if repository is None or at is None or found[3] not in at[1]:
            code = "RepoNotFound" if repository is None else "RevisionNotFound"
            self._refuse(404, "EntryNotFound" if at else code)
            return
        content = at[1][found[3]]
        etag = hashlib.sha256(content).hexdigest()
        self._answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=at[0])

    do_HEAD = do_GET
