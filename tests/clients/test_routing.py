"""Clients of 2026-07-28 mirror `session_id` as a header (SEP-2243): a balancer can route without reading bodies.

A relay stands between the client and the server and writes down the heads of the requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import fastmcp
import mcp

from support import node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support import Forkpy

TYPESCRIPT = """
import { createRequire } from "node:module";
import { join } from "node:path";
const require = createRequire(join(process.env.FORKPY_NODE_DIR, "package.json"));
const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
const client = new Client({ name: "routing", version: "1" }, { versionNegotiation: { mode: "auto" } });
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
await client.listTools();
await client.callTool({ name: "create_session", arguments: { session_id: "typescript" } });
const result = await client.callTool({ name: "run_python_code", arguments: { code: "1", session_id: "typescript" } });
await client.callTool({ name: "run_python_code", arguments: { code: "1" } });
await client.close();
console.log(JSON.stringify(result.content));
"""


class Relay:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.target = (parts.hostname, parts.port)
        self.calls: list[tuple[str, str | None]] = []

    def note(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        if headers.get("mcp-method") == "tools/call":
            self.calls.append((headers["mcp-name"], headers.get("mcp-param-session-id")))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self.target)

        async def there() -> None:
            # One request behind another: the head is written down, the body passed on.
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.note(head)
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                upstream_writer.write(head + body)
                await upstream_writer.drain()

        async def back() -> None:
            while data := await upstream_reader.read(65536):
                writer.write(data)
                await writer.drain()

        ways = [asyncio.create_task(there()), asyncio.create_task(back())]
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        upstream_writer.close()


@contextlib.asynccontextmanager
async def relayed(url: str) -> AsyncIterator[tuple[str, Relay]]:
    relay = Relay(url)
    server = await asyncio.start_server(relay.serve, "localhost", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://localhost:{port}/mcp", relay
    finally:
        server.close()


async def test_python_clients_send_the_header(forkpy_http: Forkpy) -> None:
    async with relayed(forkpy_http.url) as (url, relay):
        async with mcp.Client(url) as client:
            await client.list_tools()
            await client.call_tool("create_session", {"session_id": "python"})
            await client.call_tool("run_python_code", {"code": "1", "session_id": "python"})
            await client.call_tool("run_python_code", {"code": "1"})
        named = [("create_session", "python"), ("run_python_code", "python"), ("run_python_code", None)]
        assert relay.calls == named
        relay.calls.clear()
        # One that has listed no tools yet cannot know of the header, and is served all the same.
        async with fastmcp.Client(url) as client:
            result = await client.call_tool("run_python_code", {"code": "6*7", "session_id": "default"})
            assert result.content[0].text == "42"
        assert relay.calls[0][0] == "run_python_code"


async def test_the_typescript_client_sends_the_header(forkpy_http: Forkpy) -> None:
    path, directory = node()
    async with relayed(forkpy_http.url) as (url, relay):
        process = await asyncio.create_subprocess_exec(
            path,
            "--input-type=module",
            "-",
            url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"FORKPY_NODE_DIR": str(directory), "PATH": ""},
        )
        said, _ = await process.communicate(TYPESCRIPT.encode())
        assert process.returncode == 0
        assert json.loads(said)[0]["text"] == "1"
        named = [("create_session", "typescript"), ("run_python_code", "typescript"), ("run_python_code", None)]
        assert relay.calls == named
