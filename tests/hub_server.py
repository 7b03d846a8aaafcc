"""The Hugging Face Hub on this machine: as much of its HTTP interface as `huggingface_hub` uses to push and pull.

Repositories of any kind, branches, commits, large files in one part or in several, downloads of ranges. Everything
lies in one folder; nothing leaves the loopback interface. Tests start a client in a fresh process with the server's
`environment`, since `huggingface_hub` reads the endpoint once, when it is imported.
"""

import os
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

from forked_client import Client
from hub_connection import Exchange, Fault
from hub_repositories import Repository
from hub_routes import HubRoutes


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a killed client is part of many a test
            super().handle_error(request, client_address)


class HubServer:
    """The server, running from `with HubServer(folder) as hub:` to the end of the block.

    Args:
        folder (`Path`): where repositories are kept.
        part_size (`int`, *optional*): large files beyond this many bytes are asked for in parts. By default never.
        page_size (`int`, *optional*, defaults to 50): files in one page of a listing.
    """

    def __init__(self, folder: Path, part_size: int | None = None, page_size: int = 50):
        self.folder = Path(folder)
        self.part_size = part_size
        self.page_size = page_size
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Exchange] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        handler = type("Handler", (HubRoutes,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = "dummy") -> dict[str, str]:
        """The environment of a client process with its own cache `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
        return kept | own | quiet | ({"HF_TOKEN": token} if token else {})

    def start(self, program: str, *arguments: object, home: Path) -> Client:
        """Start Python code as a client in a process of its own."""
        return Client(program, *arguments, environment=self.environment(home))

    def run(self, program: str, *arguments: object, home: Path) -> str:
        """Run Python code as a client to its end, and return what it printed; it must not fail."""
        client = self.start(program, *arguments, home=home)
        printed, complaints = client.communicate()
        assert client.returncode == 0, complaints
        return printed

    def break_once(self, method: str, path: str, after: int | None = None, then: Callable[[], None] | None = None):
        """Break the connection of the next request that fits, see [`Fault`]."""
        self.faults.append(Fault(method, path, after, then))

    def repository(self, repo_id: str, kind: str = "datasets") -> Repository:
        return self.repositories[kind, repo_id]

    def files(self, repo_id: str, kind: str = "datasets", revision: str = "main") -> dict[str, bytes]:
        """The contents of a repository by path, without `.gitattributes`."""
        repository = self.repository(repo_id, kind)
        files = repository.commits[repository.branches[revision]].files
        return {path: file.content.read_bytes() for path, file in files.items() if path != ".gitattributes"}

    def finished(self, method: str, path: str = "") -> list[str]:
        """Paths of the requests that were answered with success, for each time they were made."""
        return [
            exchange.path
            for exchange in self.requests
            if exchange.method == method and path in exchange.path and exchange.status in (200, 206)
        ]

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.path in path:
                    self.faults.remove(fault)
                    return fault
        return None
