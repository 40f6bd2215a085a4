"""A web server on this machine that answers ranges, and misbehaves as it is told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Files by name, how the server treats them, and what it did.

    `cuts`: so many answers stop half-way. `failures`: so many ranges are answered with status 503. `announced`: a
    length told in place of the true one. `ranges`: whether ranges are answered. `sent` counts the bytes of bodies.
    """

    files: dict[str, bytes]
    cuts: int = 0
    failures: int = 0
    announced: int | None = None
    ranges: bool = True
    url: str = ""
    sent: int = 0
    requests: list[str] = field(default_factory=list)


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms

        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            content = site.files.get(self.path.lstrip("/"))
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if body:
                site.requests.append(f"{asked[1]}-{asked[2]}" if asked else "whole")
            if content is None:
                self.head(404, 0)
                return
            if body and asked and site.failures:
                site.failures -= 1
                self.head(503, 0)
                return
            length = site.announced or len(content)
            if not (asked and site.ranges):
                self.head(200, length, *([] if site.ranges else [("Accept-Ranges", "none")]))
                if body:
                    self.send(content)
                return
            first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
            if first > last:
                self.head(416, 0)
                return
            self.head(206, last - first + 1, ("Content-Range", f"bytes {first}-{last}/{length}"))
            if body:
                self.send(content[first : last + 1])

        def head(self, status: int, length: int, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in (("Content-Length", str(length)), *headers):
                self.send_header(name, value)
            self.end_headers()

        def send(self, content: bytes) -> None:
            if site.cuts:
                site.cuts -= 1
                content = content[: len(content) // 2]
                self.close_connection = True
            site.sent += len(content)  # before the client has it: whoever asks then finds it counted
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
