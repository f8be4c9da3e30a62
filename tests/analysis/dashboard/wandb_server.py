"""A stand-in of W&B's server on loopback: answers its client, and keeps what it is sent."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
KEY = "k" * 40
ENTITY = "somebody"


@dataclass
class Request:
    """One request: the operation and variables where it is GraphQL."""

    method: str
    path: str
    body: bytes
    headers: str = ""
    operation: str = ""
    variables: dict[str, Any] = field(default_factory=dict)


@dataclass
class Server:
    """What the server has: requests, runs by id, views by id, projects, committed artifacts.

    `refuses`: the status that a request is answered with in place of 200.
    """

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    projects: set[str] = field(default_factory=set)
    artifacts: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    refuses: Callable[[Request], int] = lambda _: 200

    def count(self, operation: str) -> int:
        return sum(request.operation == operation for request in self.requests)

    def told(self) -> str:
        """All that it was sent, as text, but the key where it belongs: the header for it."""
        bodies = (request.body.decode("utf-8", "replace") for request in self.requests)
        return "\n".join([*bodies, *(r.path + r.headers for r in self.requests)])

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """For a process that sends here, of somebody with a home of their own."""
        own = {key: of for key, of in os.environ.items() if not key.startswith(("WANDB_", "XDG_"))}
        patience = {f"WANDB__{of}_RETRY_MAX": "0" for of in ("GRAPHQL", "FILE_STREAM")}
        patience["WANDB__FILE_TRANSFER_RETRY_MAX"] = "0"
        account = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "HOME": str(home)}
        return own | patience | account | more


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs while the block does."""
    server = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.handle_error = lambda *_: None  # a client that ends does so without a word
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def lomo(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m lomo` in a process of its own, since wandb keeps what it has once read."""
    command = [sys.executable, "-m", "lomo", *arguments]
    env = {**env, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            others = {k: of for k, of in self.headers.items() if k != "Authorization"}
            request = Request(self.command, self.path, body, str(others))
            if self.path == "/graphql":
                told = json.loads(body)
                request.variables = told.get("variables") or {}
                request.operation = told["query"].split("(")[0].split("{")[0].split()[-1]
            with lock:
                server.requests.append(request)
                status = server.refuses(request)
                answer = _answered(server, request) if status == 200 else {}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer

    return Handler


def _answered(server: Server, request: Request) -> dict[str, Any]:
    if request.path == "/graphql":
        return {"data": _OPERATIONS[request.operation](server, request.variables)}
    if request.method == "PUT":
        server.files[request.path] = request.body
    elif request.path.endswith("/file_stream"):
        stream = json.loads(request.body).get("files", {}).get("wandb-history.jsonl", {})
        run = request.path.split("/")[-2]
        server.history.setdefault(run, []).extend(map(json.loads, stream.get("content", [])))
    return {}


def _id(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _upsert_run(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    known = server.runs.setdefault(told["name"], {})
    known |= {key: value for key, value in told.items() if value is not None}
    entity = {"id": _id("Entity:1"), "name": told["entity"] or ENTITY}
    server.projects.add(told["project"])
    project = {"id": _id("Project:1"), "name": told["project"], "entity": entity}
    bucket = {key: told.get(key) for key in ("name", "displayName", "config")}
    bucket |= {"id": _id(f"Run:v1:{told['name']}"), "description": "", "sweepName": None}
    return {
        "upsertBucket": {
            "bucket": bucket | {"project": project, "historyLineCount": 0},
            "inserted": True,
        }
    }


def _run_files(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    urls = [{"name": f, "uploadUrl": f"{server.url}/run/{told['run']}/{f}"} for f in told["files"]]
    return {"createRunFiles": {"runID": _id("Run:1"), "uploadHeaders": [], "files": urls}}


def _artifact(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    name = told["input"]["artifactCollectionName"]
    made = {"id": _id(name), "state": "PENDING"}
    return {
        "createArtifact": {"artifact": made | {"artifactSequence": {"latestArtifact": None}}},
    }


def _manifest(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    name = told["name"]
    url = f"{server.url}/manifest/{told['artifactID']}" if told["includeUpload"] else None
    file = {"id": _id("File:1"), "name": name, "displayName": name, "uploadUrl": url}
    return {
        "createArtifactManifest": {
            "artifactManifest": {"id": _id("Manifest:1"), "file": file | {"uploadHeaders": []}}
        }
    }


def _artifact_files(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    nodes = [
        {
            **{"id": _id("File:1"), "name": file["name"], "displayName": file["name"]},
            **{"uploadUrl": f"{server.url}/artifact/{file['name']}", "uploadHeaders": []},
            **{"storagePath": f"stored/{file['name']}", "uploadMultipartUrls": None},
            **{"artifact": {"id": file["artifactID"]}},
        }
        for file in told["input"]["artifactFiles"]
    ]
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


def _commit(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    name = base64.b64decode(told["artifactID"]).decode()
    server.artifacts[name] = told["artifactID"]
    return {"commitArtifact": {"artifact": {"id": told["artifactID"], "digest": "d"}}}


def _viewer(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    names = {"entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
    return {"viewer": {"id": _id("User:1"), "teams": {"edges": []}} | names}


def _projects(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    common = {"entityName": ENTITY, "createdAt": "2026-01-01T00:00:00", "isBenchmark": False}
    nodes = [
        {"__typename": "Project", "id": _id(name), "name": name, "user": None} | common
        for name in server.projects
    ]
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    edges = [{"node": node, "cursor": "c"} for node in nodes]
    return {"models": {"pageInfo": page, "edges": edges}}


def _create_project(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    name = told["input"]["name"]
    server.projects.add(name)
    model = {"id": _id(name), "name": name, "entityName": ENTITY}
    return {"result": {"project": model, "model": model, "inserted": True}}


def _upsert_view(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    found = told.get("id") or _id(f"View:{len(server.views) + 1}")
    inserted = found not in server.views
    view = {"id": found, "updatedAt": "2026-01-01T00:00:00"}
    view |= {key: told[key] for key in ("name", "type", "displayName", "description", "spec")}
    project = {"id": _id("Project:1"), "name": told["projectName"], "entityName": ENTITY}
    server.views[found] = view | {"project": project}
    return {"upsertView": {"view": server.views[found], "inserted": inserted}}


def _views(server: Server, told: dict[str, Any]) -> dict[str, Any]:
    kind, name = told.get("viewType", "runs"), told.get("viewName")
    times = {"createdAt": "2026-01-01T00:00:00", "user": None}
    nodes = [
        view | times
        for view in server.views.values()
        if view["type"] == kind and name in (None, view["name"])
    ]
    edges = [{"node": node, "cursor": node["id"]} for node in nodes]
    page = {"endCursor": None, "hasNextPage": False}
    return {"project": {"allViews": {"edges": edges, "pageInfo": page}}}


_OPERATIONS: dict[str, Callable[[Server, dict[str, Any]], dict[str, Any]]] = {
    "ServerFeaturesQuery": lambda *_: {"serverInfo": {"features": []}},
    "Viewer": _viewer,
    "GetDefaultEntity": _viewer,
    "UpsertBucket": _upsert_run,
    "CreateRunFiles": _run_files,
    "CreateArtifact": _artifact,
    "CreateArtifactManifest": _manifest,
    "CreateArtifactFiles": _artifact_files,
    "CommitArtifact": _commit,
    "GetProjects": _projects,
    "CreateProject": _create_project,
    "ProjectViews": _views,
    "View": _views,
    "upsertView": _upsert_view,
    "UpsertView2": _upsert_view,
}
