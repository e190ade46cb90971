"""Jobs that take longer than a client waits, through the libraries for agents over `forkpy attach`.

One JSON object, on the last line:

    long_calls.py SECONDS COMMAND ARGUMENT...

Each library has its own default time-out. What it shows to its model is followed as a model would follow it: while
the reply says that the code runs on, or when the library has given the call up, wait_for_cell is called. Runs in an
environment of its own (agents.txt).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Call = Callable[[str, dict[str, Any]], Awaitable[str]]

os.environ.update(MCP_USE_ANONYMIZED_TELEMETRY="false", OPENAI_AGENTS_DISABLE_TRACING="1", OPENAI_API_KEY="none")

SECONDS = float(sys.argv[1])
COMMAND, ARGUMENTS = sys.argv[2], sys.argv[3:]
# What a client starts has little more of the environment than this.
PASSED_ON = ("PATH", "HOME", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV", "FORKPY_PRELOAD")
ENVIRONMENT = {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def job(name: str) -> dict[str, Any]:
    """Counts how often it is run, in a session of its own."""
    code = (
        f"import time\nruns = globals().get('runs', 0) + 1\nprint('begun', flush=True)\n"
        f"time.sleep({SECONDS})\nprint('done', runs)"
    )
    return {"code": code, "session_id": name}


def goes_on(text: str) -> bool:
    return "--- running ---" in text or "--- queued ---" in text


async def followed(name: str, call: Call) -> dict[str, Any]:
    """What a model sees of the job, call by call, to its end."""
    if name != "default":
        await call("create_session", {"session_id": name})
    began = time.monotonic()
    texts: list[str] = []
    gave_up: list[str] = []
    tool, arguments = "run_python_code", job(name)
    while not texts or goes_on(texts[-1]):
        try:
            texts.append(await call(tool, arguments))
        except Exception as error:
            gave_up.append(f"{tool} at {time.monotonic() - began:.1f} s: {error!r}")
            if time.monotonic() - began > SECONDS + 60:
                raise
        tool, arguments = "wait_for_cell", {"session_id": name}
    took = round(time.monotonic() - began, 1)
    count = await call("run_python_code", {"code": "runs", "session_id": name})
    # What is answered at once is followed in the same way.
    code = "import time; time.sleep(1); runs += 1; print('second', runs)"
    later = [await call("run_python_code", {"code": code, "session_id": name, "background": True})]
    while goes_on(later[-1]):
        later.append(await call("wait_for_cell", {"session_id": name}))
    return {"texts": texts, "count": count.strip(), "gave up": gave_up, "later": later, "took": took}


def said(value: Any) -> str:
    """The text in a library's reply."""
    if isinstance(value, str):
        return value
    if hasattr(value, "content"):
        return said(value.content)
    if isinstance(value, (list, tuple)):
        return "\n".join(said(item) for item in value)
    if isinstance(value, dict):
        return str(value.get("text", value))
    return str(getattr(value, "text", value))


def shown(reply: Any) -> str:
    """The same of the structure that pydantic-ai gives its model."""
    if not isinstance(reply, dict) or "status" not in reply:
        return said(reply)
    text = "\n".join([reply.get("stdout") or "", *(reply.get("results") or [])]).strip()
    return f"--- {reply['status']} ---\n{text}" if reply["status"] in ("running", "queued") else text


async def python_sdk_1() -> dict[str, Any]:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    parameters = StdioServerParameters(command=COMMAND, args=ARGUMENTS, env=ENVIRONMENT)
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()

        async def call(tool: str, arguments: dict[str, Any]) -> str:
            return said(await session.call_tool(tool, arguments))

        return await followed("sdk1", call)


async def openai_agents() -> dict[str, Any]:
    from agents.mcp import MCPServerStdio

    parameters = {"command": COMMAND, "args": ARGUMENTS, "env": ENVIRONMENT}
    async with MCPServerStdio(parameters) as server:

        async def call(tool: str, arguments: dict[str, Any]) -> str:
            return said(await server.call_tool(tool, arguments))

        return await followed("openai", call)


async def langchain() -> dict[str, Any]:
    """By default each call starts a process of its own: what is left of one call is found by the next."""
    from langchain_mcp_adapters.client import MultiServerMCPClient

    # Of a server of its own, where no session is made: what comes from a server while its process ends is an error of
    # the Python SDK 1.x (BrokenResourceError).
    place = ARGUMENTS.index("--workspace") + 1
    arguments = [*ARGUMENTS[:place], f"{ARGUMENTS[place]}-langchain", *ARGUMENTS[place + 1 :]]
    server = {"transport": "stdio", "command": COMMAND, "args": arguments, "env": ENVIRONMENT}
    client = MultiServerMCPClient({"forkpy": server})
    tools = {tool.name: tool for tool in await client.get_tools()}

    async def call(tool: str, arguments: dict[str, Any]) -> str:
        return said(await tools[tool].ainvoke(arguments))

    reply = await followed("default", call)
    # And in the session that no call names.
    variables = [await call("run_python_code", {"code": code}) for code in ("x = 1", "x += 1; x", "x += 1; x")]
    return {**reply, "variables": variables}


async def pydantic_ai() -> dict[str, Any]:
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai.mcp import MCPToolset

    transport = StdioTransport(COMMAND, ARGUMENTS, env=ENVIRONMENT)
    async with MCPToolset(transport) as server:

        async def call(tool: str, arguments: dict[str, Any]) -> str:
            return shown(await server.direct_call_tool(tool, arguments))

        return await followed("pydantic", call)


def smolagents() -> dict[str, Any]:
    from mcp import StdioServerParameters
    from smolagents import MCPClient

    parameters = StdioServerParameters(command=COMMAND, args=ARGUMENTS, env=ENVIRONMENT)
    with MCPClient(parameters, structured_output=False) as all_tools:
        tools = {tool.name: tool for tool in all_tools}

        async def call(tool: str, arguments: dict[str, Any]) -> str:
            return said(await asyncio.to_thread(lambda: tools[tool](**arguments)))

        return asyncio.run(followed("smolagents", call))


async def mcp_use() -> dict[str, Any]:
    from mcp_use import MCPClient
    from mcp_use.agents.adapters.langchain_adapter import LangChainAdapter

    server = {"command": COMMAND, "args": ARGUMENTS, "env": ENVIRONMENT}
    client = MCPClient.from_dict({"mcpServers": {"forkpy": server}})
    try:
        await client.create_all_sessions()
        adapter = LangChainAdapter()
        await adapter.create_all(client)
        tools = {tool.name: tool for tool in adapter.tools}

        async def call(tool: str, arguments: dict[str, Any]) -> str:
            return said(await tools[tool].ainvoke(arguments))

        return await followed("mcpuse", call)
    finally:
        await client.close_all_sessions()


async def main() -> dict[str, Any]:
    names = ["python sdk 1", "openai agents", "langchain", "pydantic-ai", "smolagents", "mcp-use"]
    work = [python_sdk_1(), openai_agents(), langchain(), pydantic_ai(), asyncio.to_thread(smolagents), mcp_use()]
    done = await asyncio.gather(*work, return_exceptions=True)
    return {
        name: {"failed": repr(reply)} if isinstance(reply, BaseException) else reply
        for name, reply in zip(names, done, strict=True)
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
