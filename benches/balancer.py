#!/usr/bin/env python3
"""Measure what the balancer of `forkpy deploy haproxy` adds to a call, with three servers behind it.

    FORKPY_BIN=target/release/forkpy FORKPY_HAPROXY=haproxy FORKPY_HAPROXY_LIBRARIES= FORKPY_TEST_VENV=... \\
        target/clients/VENV/bin/python benches/balancer.py [ROUNDS]

Both ways in turn, each over a connection that stays. The variables are those of `tests/clients/test_several_servers.py`, which
starts the servers; it needs pytest and fastmcp.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "clients"))

from test_several_servers import House

SESSION = "bench"
WARMING = 100


class Way:
    """A connection that stays, straight to a server or through the balancer."""

    def __init__(self, address: str, token: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=60)
        self.token = token
        self.times: list[float] = []

    def call(self, tool: str, **arguments: str) -> str:
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "balancer", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params = {
            "name": tool,
            "arguments": {"session_id": SESSION, **arguments},
            "_meta": meta,
        }
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
            "Mcp-Param-Session-Id": SESSION,
        }
        body = json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        )
        began = time.perf_counter()
        self.connection.request("POST", "/mcp", body, headers)
        answer = self.connection.getresponse()
        text = answer.read().decode()
        self.times.append((time.perf_counter() - began) * 1e6)
        assert answer.status == 200, text
        return text


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder))
        try:
            house.begin()
            measure(house, rounds)
        finally:
            house.end()
    return 0


def measure(house: House, rounds: int) -> None:
    through = Way(house.bind, house.tokens[0])
    made = json.loads(through.call("create_session"))["result"]["structuredContent"]
    (server,) = (server for server in house.servers if server.name == made["server"])
    straight = Way(server.address, house.tokens[0])
    ways = {"straight": straight, "through": through}
    for turn in range(rounds + WARMING):
        if turn == WARMING:
            for way in ways.values():
                way.times.clear()
        for way in ways.values():
            assert '"ok"' in way.call("run_python_code", code="1")
    print(f"{'microseconds':<12} {'p50':>8} {'p90':>8} {'p99':>8}")
    for name, way in ways.items():
        parts = statistics.quantiles(way.times, n=100)
        print(f"{name:<12} {parts[49]:>8.0f} {parts[89]:>8.0f} {parts[98]:>8.0f}")


if __name__ == "__main__":
    raise SystemExit(main())
