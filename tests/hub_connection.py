"""One client's connection to `hub_server`: requests are read, answered, taken down, and broken on demand."""

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repositories import COPY_BYTES


@dataclass
class Fault:
    """What goes wrong with the next request that fits.

    Args:
        method (`str`): HTTP method.
        path (`str`): part of the request's path.
        after (`int`, *optional*):
            Bytes of the body that still pass before the connection breaks. By default the request is carried out, and
            only its answer is lost.
        then (`Callable`, *optional*): called as the connection breaks, to kill the client say.
    """

    method: str
    path: str
    after: int | None = None
    then: Callable[[], None] | None = None


@dataclass
class Exchange:
    """A request and what came of it; `status` is `None` for a connection that was broken."""

    method: str
    path: str
    status: int | None = None
    received: int = 0
    sent: int = 0


class Refusal(Exception):
    """An answer other than success, with the code by which `huggingface_hub` tells what is missing."""

    def __init__(self, status: int, message: str, code: str | None = None, **content):
        super().__init__(message)
        self.status, self.code, self.content = status, code, {"error": message, **content}


class BrokenOnPurpose(Exception):
    """The connection is to break here."""


class Connection(BaseHTTPRequestHandler):
    """Answers requests by `routes`: the method, a pattern of the path, and the name of the function to call.

    That function is given the groups of the pattern, and returns a JSON value or `(status, content, headers)`.
    """

    routes: list[tuple[str, str, str]]
    writing: set[str]  # names of the functions that only a client with a token may call
    hub: "HubServer"  # noqa: F821  (it imports this module)
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        """Find the route, answer, and take down what happened."""
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.exchange = Exchange(self.command, unquote(url.path))
        self.fault = self.hub.take_fault(self.command, self.exchange.path)
        with self.hub.lock:
            self.hub.requests.append(self.exchange)
        try:
            try:
                self.answer(*self.dispatch(url.path))
            except Refusal as refusal:
                for _ in self.body():  # the connection is kept, so what the client still sends has to be read
                    pass
                self.answer(refusal.status, refusal.content, {"X-Error-Code": refusal.code} if refusal.code else {})
        except (BrokenOnPurpose, ConnectionError):
            if self.fault is not None and self.fault.then is not None:
                self.fault.then()
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client may be gone already
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def log_message(self, *arguments) -> None:
        """Keep quiet: `requests` is the log."""

    def dispatch(self, path: str) -> tuple:
        self.unread = None
        for method, pattern, name in self.routes:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                if name in self.writing and "Authorization" not in self.headers:
                    raise Refusal(401, "Invalid username or password.")
                result = getattr(self, name)(*(part and unquote(part) for part in match.groups()))
                return result if isinstance(result, tuple) else (200, result, {})
        raise Refusal(404, f"This server does not know {self.command} {path}.")

    def body(self) -> Iterator[bytes]:
        """The rest of the request's body, until a fault breaks it."""
        if self.unread is None:
            self.unread = self.chunks()
        for chunk in self.unread:
            self.exchange.received += len(chunk)
            if self.fault is not None and self.fault.after is not None and self.exchange.received > self.fault.after:
                raise BrokenOnPurpose
            yield chunk

    def chunks(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        remaining = int(self.headers.get("Content-Length", 0))
        while remaining:
            chunk = self.rfile.read(min(remaining, COPY_BYTES))
            if not chunk:
                raise ConnectionError("the client went away")
            remaining -= len(chunk)
            yield chunk

    def json(self) -> dict:
        return json.loads(b"".join(self.body()))

    def answer(self, status: int, content: dict | list | bytes | Iterator[bytes], headers: dict[str, str]) -> None:
        if self.fault is not None and self.fault.after is None:
            raise BrokenOnPurpose
        if isinstance(content, dict | list):
            content, headers = json.dumps(content).encode(), headers | {"Content-Type": "application/json"}
        if isinstance(content, bytes):
            content, headers = iter([content]), {"Content-Length": str(len(content))} | headers
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for chunk in content if self.command != "HEAD" else ():
            if self.fault is not None and self.command == "GET":
                chunk = chunk[: self.fault.after - self.exchange.sent]
            self.wfile.write(chunk)
            self.exchange.sent += len(chunk)
            if self.fault is not None and self.exchange.sent >= self.fault.after:
                raise BrokenOnPurpose
        self.exchange.status = status
