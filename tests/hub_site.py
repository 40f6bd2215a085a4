"""A Hugging Face hub on this machine with one data set: what its client asks for when it reads files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest


@dataclass
class HubSite:
    """Files by path of the data set `name`, at `commit`; `requests` are the paths asked for."""

    files: dict[str, bytes]
    name: str
    commit: str = "0" * 39 + "1"
    requests: list[str] = field(default_factory=list)


@contextmanager
def serve_hub(site: HubSite, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubSite]:
    """Serves the site, and makes the hub's client and `datasets` take it for the hub; `cache` is what they keep."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(self.path.partition("?")[0])
            site.requests.append(path)
            about, resolve = f"/api/datasets/{site.name}", f"/datasets/{site.name}/resolve/{site.commit}/"
            if path in (about, f"{about}/revision/{site.commit}", f"{about}/revision/main"):
                self.send(200, {"id": site.name, "sha": site.commit, "private": False, "tags": [], "downloads": 0})
            elif path.startswith(f"{about}/tree/{site.commit}"):
                self.tree(path.removeprefix(f"{about}/tree/{site.commit}").strip("/"))
            elif path.startswith(resolve) and path.removeprefix(resolve) in site.files:
                self.file(site.files[path.removeprefix(resolve)])
            else:
                code = "EntryNotFound" if site.name in path and site.commit in path else "RepoNotFound"
                self.send(404, {"error": code}, ("X-Error-Code", code))

        def tree(self, folder: str) -> None:
            """What a folder holds, one level of it."""
            start = f"{folder}/" if folder else ""
            below = [name for name in site.files if name.startswith(start)]
            there: dict[str, dict[str, object]] = {}
            for name in below:
                path = start + name.removeprefix(start).split("/")[0]
                kind = "file" if path == name else "directory"
                there[path] = {"type": kind, "path": path, "size": len(site.files.get(path, b"")), "oid": path}
            self.send(200, list(there.values())) if there else self.send(404, {}, ("X-Error-Code", "EntryNotFound"))

        def file(self, content: bytes) -> None:
            first, last = 0, len(content) - 1
            ranged = self.headers.get("Range", "").removeprefix("bytes=")
            if ranged:
                first, last = int(ranged.split("-")[0]), min(int(ranged.split("-")[1] or last), last)
            body = content[first : last + 1]
            self.send_response(206 if ranged else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"0"')
            self.send_header("X-Repo-Commit", site.commit)
            if ranged:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def send(self, status: int, content: object, *headers: tuple[str, str]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for key, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    import datasets
    from huggingface_hub import HfFileSystem, constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(cache / "modules"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
    HfFileSystem.clear_instance_cache()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    try:
        yield site
    finally:
        HfFileSystem.clear_instance_cache()
        server.shutdown()
        server.server_close()
