"""A small Hugging Face Hub on this machine, for tests: repositories of models in memory, behind the Hub's addresses."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

TOKEN = "hf_of_somebody"


class FakeHub:
    """The server.

    Attributes:
        files: Of each repository, `OWNER/NAME`: contents by path.
        private: Which of them are.
        commits: Messages, of all repositories.
        refuse: Status and message of every answer to a request that writes; `None` for the true ones.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.commits: list[str] = []
        self.refuse: tuple[int, str] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def point_client(self, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
        """Have huggingface_hub in this process talk to it; HF_ENDPOINT does so in a process that starts with it."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)

    def commit(self, repository: str) -> str:
        """Names what a repository holds."""
        return hashlib.sha1(repr(sorted(self.files[repository].items())).encode()).hexdigest()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            path = self.path.partition("?")[0]
            if path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._fail(401, "Invalid username or password.")
            elif hub.refuse:
                self._fail(*hub.refuse)
            elif path == "/api/repos/create":
                self._create(json.loads(body))
            elif path.endswith("/preupload/main"):
                named = [{"path": file["path"]} for file in json.loads(body)["files"]]
                self._json({"files": [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in named]})
            else:
                self._commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].lstrip("/")
            if path.startswith("api/models/"):
                repository = "/".join(path.split("/")[2:4])
                if self._is_seen(repository):
                    private = repository in hub.private
                    self._json({"id": repository, "private": private, "sha": hub.commit(repository), "siblings": []})
            else:
                repository, _, file = path.partition("/resolve/")
                self._file(repository, file.partition("/")[2])

        do_HEAD = do_GET

        def _create(self, asked: dict[str, Any]) -> None:
            repository = f"{asked['organization']}/{asked['name']}"
            hub.files[repository] = {}
            # the client's word for it has changed
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(repository)
            self._json({"url": f"{hub.endpoint}/{repository}"})

        def _commit(self, repository: str, body: bytes) -> None:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.commits.append(value["summary"])
                else:
                    hub.files[repository][value["path"]] = base64.b64decode(value["content"])
            commit = hub.commit(repository)
            self._json({"commitUrl": f"{hub.endpoint}/{repository}/commit/{commit}", "commitOid": commit})

        def _file(self, repository: str, name: str) -> None:
            if not self._is_seen(repository):
                return
            content = hub.files[repository].get(name)
            if content is None:
                self._fail(404, "Entry not found", "EntryNotFound")
            else:
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": hub.commit(repository)}
                self._answer(200, content, headers)

        def _is_seen(self, repository: str) -> bool:
            allowed = repository not in hub.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"
            seen = repository in hub.files and allowed
            if not seen:
                self._fail(404, "Repository not found", "RepoNotFound")
            return seen

        def _json(self, content: dict[str, Any]) -> None:
            self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _fail(self, status: int, message: str, code: str = "") -> None:
            headers = {"Content-Type": "application/json", **({"X-Error-Code": code} if code else {})}
            self._answer(status, json.dumps({"error": message}).encode(), headers)

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler
