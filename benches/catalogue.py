#!/usr/bin/env python3
"""What a server's list of tools costs a model: bytes of name, description and input schema, as clients hand them on.

    catalogue.py NAME=COMMAND...

starts each COMMAND over stdio, asks `tools/list`, and prints a row of a table in Markdown. Standard library only.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from typing import Any

LIMIT = 90.0
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "catalogue", "version": "1"},
}


def main() -> int:
    if len(sys.argv) < 2 or any("=" not in wish for wish in sys.argv[1:]):
        print(__doc__, file=sys.stderr)
        return 2
    print(
        "| server | version | tools | before a model, bytes | `tools/list`, bytes |\n|---|---|---|---|---|"
    )
    for wish in sys.argv[1:]:
        name, command = wish.split("=", 1)
        print(row(name, command), flush=True)
    return 0


def row(name: str, command: str) -> str:
    with subprocess.Popen(
        shlex.split(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        guard = threading.Timer(LIMIT, server.kill)
        guard.start()
        try:
            version = ask(server, 1, "initialize", HELLO)["serverInfo"]["version"]
            send(server, {"method": "notifications/initialized"})
            tools = all_tools(server)
        except (EOFError, KeyError) as error:
            return f"| {name} | | it did not answer: {error!r} | | |"
        finally:
            guard.cancel()
            server.terminate()
    shown = sum(
        size({key: tool.get(key) for key in ("name", "description", "inputSchema")})
        for tool in tools
    )
    return f"| {name} | {version} | {len(tools)} | {shown:,} | {size(tools):,} |"


def all_tools(server: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = []
    params: dict[str, Any] = {}
    while True:
        page = ask(server, 2 + len(tools), "tools/list", params)
        tools += page["tools"]
        if not page.get("nextCursor"):
            return tools
        params = {"cursor": page["nextCursor"]}


def size(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def send(server: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    server.stdin.flush()


def ask(
    server: subprocess.Popen[bytes], number: int, method: str, params: dict[str, Any]
) -> dict[str, Any]:
    send(server, {"id": number, "method": method, "params": params})
    assert server.stdout is not None
    for line in server.stdout:
        # Some servers print other things, too.
        if line.startswith(b"{") and (answer := json.loads(line)).get("id") == number:
            return answer["result"]
    raise EOFError(method)


if __name__ == "__main__":
    sys.exit(main())
