"""Several servers behind the real HAProxy, with the configuration that `forkpy deploy haproxy` prints.

Each session is a counter: an answer from a server that has not got the session, or of another owner's session, would be
a wrong number or an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OWNERS = 10
BINARY = os.environ["FORKPY_BIN"]
PATIENCE = 60
COUNT = "n = globals().get('n', 0) + 1\nn"

# Whose it is, and its name.
Session = tuple[int, str]


class Server:
    """A forkpy that listens on loopback."""

    def __init__(self, folder: Path, name: str, port: int = 0) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        command = [BINARY, "--transport", "http", "--port", str(port), "--server-name", name, "--max-spares", "0"]
        command += ["--max-sessions", "500", "--tokens", str(folder / "tokens.toml")]
        environment = {**os.environ, "FORKPY_VENV": os.environ["FORKPY_TEST_VENV"]}
        workspace = folder / name
        workspace.mkdir(exist_ok=True)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--workspace", str(workspace)], env=environment, stdin=subprocess.DEVNULL, stderr=log
            )
        until(lambda: "listening on http://" in self.log.read_text(), "the server to listen")
        found = re.search(r"listening on http://([\d.]+):(\d+)", self.log.read_text())
        assert found is not None
        self.port = int(found[2])
        self.address = f"{found[1]}:{found[2]}"

    def end(self, with_signal: int = signal.SIGTERM) -> None:
        self.process.send_signal(with_signal)
        self.process.wait(PATIENCE)

    def probe(self) -> int:
        return ask(self.address, "/readyz?draining=404")[0]


def ask(address: str, path: str, headers: dict[str, str] | None = None, body: object = None) -> tuple[int, str]:
    """Send a request over a connection of its own: its status and text."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def until(is_so: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < limit, f"no sign of {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class House:
    """Three servers and their balancer; what they know of ten owners."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Server] = []
        self.balancer: subprocess.Popen[bytes] | None = None
        self.bind = ""
        self.tokens: list[str] = []

    def begin(self) -> None:
        for owner in range(OWNERS):
            new = [BINARY, "token", "new", f"owner-{owner}", "--tokens", str(self.folder / "tokens.toml")]
            made = subprocess.run(new, check=True, capture_output=True, text=True)
            self.tokens.append(made.stdout.strip())
        for number in range(3):
            self.servers.append(Server(self.folder, f"s{number}"))
        self.bind = f"127.0.0.1:{free_port()}"
        addresses = [option for server in self.servers for option in ("--server", server.address)]
        deploy = [BINARY, "deploy", "haproxy", "--bind", self.bind, *addresses]
        config = self.folder / "haproxy.cfg"
        config.write_text(subprocess.run(deploy, check=True, capture_output=True, text=True).stdout)
        libraries = os.environ["FORKPY_HAPROXY_LIBRARIES"]
        self.balancer = subprocess.Popen(
            [os.environ["FORKPY_HAPROXY"], "-db", "-f", str(config)],
            env={**os.environ, "LD_LIBRARY_PATH": libraries} if libraries else None,
            stdin=subprocess.DEVNULL,
        )
        until(self._is_up, "the balancer")

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError):
            return ask(self.bind, "/healthz")[0] == 200
        return False

    def call(self, tool: str, session: Session, **arguments: str) -> dict[str, object]:
        """As a client of 2026-07-28 calls: the header names the session."""
        owner, name = session
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "several", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params = {"name": tool, "arguments": {"session_id": name, **arguments}, "_meta": meta}
        headers = {
            "Authorization": f"Bearer {self.tokens[owner]}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
            "Mcp-Param-Session-Id": name,
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        status, text = ask(self.bind, "/mcp", headers, body)
        assert status == 200, text
        return dict(json.loads(text)["result"])

    def create(self, session: Session) -> str:
        made = self.call("create_session", session)
        content = made["structuredContent"]
        assert isinstance(content, dict)
        assert content["status"] == "created", made
        return str(content["server"])

    def count(self, session: Session) -> str:
        """Count one up, and give the number or what is wrong."""
        reply = self.call("run_python_code", session, code=COUNT)
        if reply.get("isError"):
            return str(reply["content"])
        content = reply["structuredContent"]
        assert isinstance(content, dict)
        return str(content["results"][0])

    def end(self) -> None:
        if self.balancer is not None:
            self.balancer.terminate()
            self.balancer.wait(PATIENCE)
        for server in self.servers:
            if server.process.poll() is None:
                server.end()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    if not os.environ.get("FORKPY_HAPROXY"):
        print("NOT TESTED: several servers, for there is no haproxy and no Debian package of it here")
        pytest.skip("no haproxy")
    house = House(tmp_path)
    try:
        house.begin()
        yield house
    finally:
        house.end()


def test_sessions_keep_their_server_while_others_drain_die_and_come(house: House) -> None:
    # Each owner has one that is called as those of the others are.
    names = ("mine", "a{}", "b{}", "c{}", "d{}", "e{}")
    sessions = [(owner, name.format(owner)) for owner in range(OWNERS) for name in names]
    place = {session: house.create(session) for session in sessions}
    assert set(place.values()) == {"s0", "s1", "s2"}, place
    with ThreadPoolExecutor(4) as clients:
        for turn in ("1", "2", "3"):
            assert set(clients.map(house.count, sessions)) == {turn}

        # One drains: what it has goes on, and it gets nothing new.
        drained, killed, third = house.servers
        drained.process.send_signal(signal.SIGUSR1)
        until(lambda: drained.probe() == 404, "draining")
        assert ask(drained.address, "/readyz") == (503, "draining\n")
        # The balancer asks each second; until it knows, a new session is refused and not put elsewhere silently.
        until(lambda: _stopping(house, drained), "the balancer's knowledge")
        assert set(clients.map(house.count, sessions)) == {"4"}
        new = {house.create((number, f"new-{number}")) for number in range(8)}
        assert new == {"s1", "s2"}, new

        # One is killed: each of its sessions is told to be gone, and none begins anew unasked.
        killed.end(signal.SIGKILL)
        until(lambda: _fails(house), "the balancer's knowledge")
        lost = [session for session in sessions if place[session] == killed.name]
        assert lost
        for words in clients.map(house.count, lost):
            assert "does not exist" in words, words
        kept = [session for session in sessions if place[session] != killed.name]
        assert set(clients.map(house.count, kept)) == {"5"}

        # One comes in its place.
        house.servers[1] = Server(house.folder, killed.name, killed.port)
        until(lambda: _takes(house, killed.name), "new sessions on the new server")
        assert set(clients.map(house.count, kept)) == {"6"}
        assert third.process.poll() is None


def _stopping(house: House, drained: Server) -> bool:
    """Whether many new sessions in a row went elsewhere."""
    for _ in range(12):
        made = house.call("create_session", (0, f"probe-{time.monotonic_ns()}"))
        if made.get("isError"):
            assert "drains" in str(made["content"]), made
            return False
        content = made["structuredContent"]
        assert isinstance(content, dict)
        assert content["server"] != drained.name
    return True


def _fails(house: House) -> bool:
    """Whether the balancer has no answer to give for the killed server any more."""
    with contextlib.suppress(AssertionError, OSError):
        return all(house.create((0, f"after-{time.monotonic_ns()}")) for _ in range(4))
    return False


def _takes(house: House, name: str) -> bool:
    with contextlib.suppress(AssertionError, OSError):
        return house.create((0, f"late-{time.monotonic_ns()}")) == name
    return False


def test_clients_with_a_connection_of_their_own_keep_its_server(house: House) -> None:
    async def one(number: int) -> str:
        transport = StreamableHttpTransport(f"http://{house.bind}/mcp", auth=house.tokens[number])
        async with Client(transport, timeout=PATIENCE) as client:
            # From the schemas it knows which argument goes into a header.
            await client.list_tools()
            name = f"of-{number}"
            made = await client.call_tool("create_session", {"session_id": name})
            for turn in range(1, 5):
                told = await client.call_tool("run_python_code", {"code": COUNT, "session_id": name})
                assert told.data["results"] == [str(turn)]
            return str(made.data["server"])

    async def all_of_them() -> list[str]:
        return list(await asyncio.gather(*(one(number) for number in range(6))))

    assert len(set(asyncio.run(all_of_them()))) > 1, "the servers share the work"
