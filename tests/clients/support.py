"""Starts the forkpy binary the way clients do, and waits for things to happen.

Environment: FORKPY_BIN (the binary, required), FORKPY_NODE and FORKPY_NODE_DIR (from prepare.py), FORKPY_TEST_VENV (the
environment that sessions use, default: the one that runs these tests).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastmcp
import mcp
import psutil
from fastmcp.client.transports import StdioTransport
from mcp.client.stdio import StdioServerParameters, stdio_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import TextIO

START_DEADLINE = 60.0
STOP_DEADLINE = 15.0
# Passed on to a server that a client starts: the clients themselves pass little more than PATH and HOME.
PASSED_ON = ("LD_LIBRARY_PATH", "RUST_LOG", "RUST_BACKTRACE", "TMPDIR", "LLVM_PROFILE_FILE")


class Forkpy:
    """One workspace. Over stdio each client starts a server; over HTTP they share one, each with its own sessions."""

    def __init__(self, transport: str, directory: Path, *options: str) -> None:
        self.transport = transport
        self.options = options
        self.workspace = directory / "workspace"
        self.workspace.mkdir()
        self.log = directory / "server.log"
        self.log.touch()
        self.url = ""
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Forkpy:
        if self.transport == "http":
            self._start_http()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._server is not None:
                stop(self._server)
        finally:
            tail = self.log.read_text(errors="replace").splitlines()[-60:]
            print("\n".join(["", f"--- {self.log} (its last lines)", *tail]))

    # -- clients

    def client(self, mode: str = "auto", **options: Any) -> fastmcp.Client:
        """FastMCP's client."""
        if self.transport == "http":
            return fastmcp.Client(self.url, mode=mode, **options)
        transport = StdioTransport(
            binary(), self.arguments("stdio"), env=passed_on(), keep_alive=False, log_file=self.log
        )
        return fastmcp.Client(transport, mode=mode, **options)

    @contextlib.asynccontextmanager
    async def sdk_client(self, mode: str = "auto", **options: Any) -> AsyncIterator[mcp.Client]:
        """The official Python SDK's client."""
        with self.log.open("a") as log:
            async with mcp.Client(self._sdk_server(log), mode=mode, **options) as client:
                yield client

    def _sdk_server(self, log: TextIO) -> Any:
        if self.transport == "http":
            return self.url
        parameters = StdioServerParameters(command=binary(), args=self.arguments("stdio"), env=passed_on())
        return stdio_client(parameters, errlog=log)

    # -- the server

    def arguments(self, transport: str, *more: str) -> list[str]:
        return ["--workspace", str(self.workspace), "--transport", transport, *self.options, *more]

    def _start_http(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/mcp"
        command = [binary(), *self.arguments("http", "--host", "127.0.0.1", "--port", str(port))]
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **passed_on()},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_DEADLINE
        while not accepts(port):
            status = self._server.poll()
            assert status is None, f"the server ended with {status} before it listened:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"the server does not listen:\n{self.log.read_text()}"
            time.sleep(0.02)


def binary() -> str:
    path = os.environ.get("FORKPY_BIN")
    assert path, "set FORKPY_BIN to the forkpy binary"
    return str(Path(path).resolve())


def passed_on() -> dict[str, str]:
    """Sessions use the environment of these tests: it holds psutil, which the health document imports."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or (name.startswith("FORKPY_") and not name.startswith(("FORKPY_BIN", "FORKPY_NODE")))
    }
    # They stop a worker's parent: no other zygote is to take its place because an import was slow.
    environment["FORKPY_PRELOAD"] = "none"
    environment["FORKPY_ZYGOTE_IMAGE"] = "off"
    environment["VIRTUAL_ENV"] = os.environ.get("FORKPY_TEST_VENV", sys.prefix)
    return environment


def node() -> tuple[str, Path]:
    path, directory = os.environ.get("FORKPY_NODE"), os.environ.get("FORKPY_NODE_DIR")
    assert path, "set FORKPY_NODE and FORKPY_NODE_DIR to what prepare.py printed"
    assert directory, "set FORKPY_NODE_DIR to what prepare.py printed"
    return path, Path(directory)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """SIGTERM ends the server and all it started, in time."""
    try:
        family = psutil.Process(server.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    server.terminate()
    try:
        server.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        raise AssertionError(f"the server ignored SIGTERM for {STOP_DEADLINE} s") from None
    _, alive = psutil.wait_procs(family, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert not alive, f"left behind by the server: {alive}"


def sigkill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def stopped_zygote(worker: int):
    """Stop the worker's parent, which would reap it: what dies now stays a zombie until the end of the block."""
    zygote = psutil.Process(worker).parent()
    assert zygote is not None
    assert zygote.pid > 1
    zygote.suspend()
    try:
        yield zygote
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            zygote.resume()


async def eventually(
    look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool], what: str, within: float = 15.0
) -> Any:
    """Look again and again until what is seen is what is wanted."""
    deadline = time.monotonic() + within
    while True:
        seen = await look()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"waited {within} s for {what}; last seen: {seen!r}"
        await asyncio.sleep(0.05)
