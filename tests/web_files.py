"""A web server of one file that resumes, and that can misbehave in the ways that servers do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WebFile:
    """What is served, how it misbehaves, and what was asked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.etag = '"one"'
        self.last_modified = ""
        self.ranges = True
        self.cut_at: list[int] = []
        """One answer each: the connection is closed after that many bytes of the body."""
        self.statuses: list[int] = []
        """One answer each: this status and nothing else."""
        self.redirect = ""
        self.chunked = False
        self.length = ""
        """Told as the Content-Length in place of the true one."""
        self.during: Any = None
        """Called after half of the body was sent."""
        self.after_cut: Any = None
        """Called after a connection was cut, before it is closed."""
        self.asked: list[dict[str, str]] = []
        self.url = ""


def _handler(served: WebFile) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            served.asked.append({"path": self.path} | dict(self.headers.items()))
            if served.redirect and self.path != "/target":
                self.send_response(302)
                self.send_header("Location", served.redirect)
                self.end_headers()
                return
            if served.statuses:
                self.send_error(served.statuses.pop(0))
                return
            start = self._start()
            body = served.data[start:]
            self.send_response(206 if start else 200)
            if start:
                whole = len(served.data)
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            if served.etag:
                self.send_header("ETag", served.etag)
            if served.last_modified:
                self.send_header("Last-Modified", served.last_modified)
            if not served.chunked:
                self.send_header("Content-Length", served.length or str(len(body)))
            self.end_headers()
            self._send(body)

        def _start(self) -> int:
            wanted, same = self.headers.get("Range", ""), self.headers.get("If-Range", "")
            fresh = same in (served.etag, served.last_modified)
            return int(wanted[6:-1]) if served.ranges and wanted and fresh else 0

        def _send(self, body: bytes) -> None:
            if served.cut_at:
                self.wfile.write(body[: served.cut_at.pop(0)])
                if served.after_cut:
                    served.after_cut()
                return
            half = len(body) // 2
            self.wfile.write(body[:half])
            self.wfile.flush()
            if served.during:
                served.during()
            try:
                self.wfile.write(body[half:])
            except (BrokenPipeError, ConnectionResetError):
                pass

    return Handler


@contextmanager
def serve(data: bytes) -> Iterator[WebFile]:
    """Serve ``data`` on a port of this box."""
    served = WebFile(data)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(served)) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}/model.gguf"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
