"""Python programs as clients in processes of their own, which start sooner than an interpreter could.

They are forked off a process that has imported libraries which take long and read no setting of the Hub. The rest, and
everything of this package, each client imports itself, under its own environment. So it knows nothing of the tests.
"""

import atexit
import functools
import gc
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn


PRELOADED = (
    "torch", "torchvision", "torch._inductor.compile_fx", "pandas", "pyarrow.dataset", "pyarrow.parquet",
    "sklearn.metrics", "scipy.optimize", "bitsandbytes", "torchao", "matplotlib.figure", "PIL.Image", "av", "httpx",
    "requests", "aiohttp", "jinja2", "yaml",
)  # fmt: skip


class Client:
    """A program that runs; what is used of `subprocess.Popen`.

    Args:
        program (`str`): Python code.
        *arguments (`object`): what it finds in `sys.argv`.
        environment (`Mapping[str, str]`): all of its environment.
        folder (`Path`, *optional*): where it runs, by default here.
    """

    def __init__(self, program: str, *arguments: object, environment: Mapping[str, str], folder: Path | None = None):
        self._folder = tempfile.TemporaryDirectory(prefix="client-")
        self._outputs = [Path(self._folder.name, name) for name in ("printed", "complaints")]
        self._server = _server()
        words, outputs = [*map(str, arguments)], [*map(str, self._outputs)]
        self.pid: int = self._ask("start", program, words, dict(environment), str(folder or Path.cwd()), outputs)
        self.returncode: int | None = None

    def _ask(self, *question: object):
        print(json.dumps(question), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def kill(self) -> None:
        """End the process at once."""
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Wait for the end, and tell what it printed and what it complained of."""
        self.returncode = self._ask("wait", self.pid)
        printed, complaints = (path.read_text() for path in self._outputs)
        self._folder.cleanup()
        return printed, complaints


@functools.cache
def _server() -> subprocess.Popen:
    """The process that clients are forked off, one for each process of tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__],
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    """Do what the lines of standard input ask."""
    for name in PRELOADED:
        # Some are optional, and without them a client does as it would in an interpreter of its own.
        if importlib.util.find_spec(name.split(".")[0]) is not None:
            importlib.import_module(name)
    assert "huggingface_hub" not in sys.modules and "transformers" not in sys.modules
    gc.freeze()  # or every client would copy the memory of what is imported
    while line := sys.stdin.readline():
        action, *question = json.loads(line)
        if action == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(question[0], 0)[1])
        elif (answer := os.fork()) == 0:
            _run_client(*question)
        print(json.dumps(answer), flush=True)


def _run_client(program, arguments, environment, folder, outputs) -> NoReturn:
    """Run a program as `python -c` would. It ends without taking the imported modules apart, which takes a second."""
    for number, name in enumerate([os.devnull, *outputs]):
        file = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0], sys.argv = "", ["-c", *arguments]
    code = 0
    try:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
