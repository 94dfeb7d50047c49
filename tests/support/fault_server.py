"""A local HTTP server with scripted faults."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Resource:
    """What the server has under a path and how it misbehaves.

    Attributes:
        content: The file.
        etag: Sent as ETag, none if empty.
        last_modified: Sent as Last-Modified, none if empty.
        breaks_after: For each coming answer, the bytes after which the connection closes.
        statuses: For each coming request, an error status to answer with instead.
        ranges: Whether Range is understood.
        checks_if_range: Whether a changed validator gives the whole file, as it should.
        stated_length: Content-Length to claim instead of the true one; -1 states none.
        content_type: Its type.
        before_body: Called once the header of an answer is sent.
        requests: Header fields of the requests so far.
    """

    content: bytes
    etag: str = '"one"'
    last_modified: str = ""
    breaks_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    checks_if_range: bool = True
    stated_length: int | None = None
    content_type: str = "application/octet-stream"
    before_body: Callable[[], None] = lambda: None
    requests: list[dict[str, str]] = field(default_factory=list)


class FaultServer:
    """Serves `resources` by path at `url`."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        resources = self.resources

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                resource = resources.get(self.path)
                if resource is None:
                    self.send_error(404)
                    return
                resource.requests.append(dict(self.headers))
                if resource.statuses:
                    self.send_error(resource.statuses.pop(0))
                    return
                answer(self, resource)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def add(self, path: str, content: bytes, **behaviour) -> Resource:
        self.resources[path] = Resource(content, **behaviour)
        return self.resources[path]


def answer(handler: http.server.BaseHTTPRequestHandler, resource: Resource) -> None:
    """Answer one request with the file, or the part of it that was asked for."""
    content, offset = resource.content, 0
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    condition = handler.headers.get("If-Range")
    current = condition in (None, resource.etag, resource.last_modified)
    if asked and resource.ranges and (current or not resource.checks_if_range):
        offset = int(asked[1])
        if offset >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {offset}-{len(content) - 1}/{len(content)}")
    else:
        handler.send_response(200)
    length = len(content) - offset if resource.stated_length is None else resource.stated_length
    if length >= 0:
        handler.send_header("Content-Length", str(length))
    handler.send_header("Content-Type", resource.content_type)
    if resource.etag:
        handler.send_header("ETag", resource.etag)
    if resource.last_modified:
        handler.send_header("Last-Modified", resource.last_modified)
    handler.end_headers()
    resource.before_body()
    end = offset + resource.breaks_after.pop(0) if resource.breaks_after else len(content)
    handler.wfile.write(content[offset:end])


@contextlib.contextmanager
def fault_server() -> Iterator[FaultServer]:
    """Run a server while the block runs."""
    server = FaultServer()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        thread.join()
        server.server.server_close()
