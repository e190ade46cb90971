"""What the agent libraries would put before a model, of the same cells: one JSON object, on the last line.

    agent_libraries.py URL

Runs in an environment of its own (agents.txt), because these libraries want an older `mcp` than FastMCP does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from typing import Any

# No library may look for a collector of its makers.
os.environ.update(MCP_USE_ANONYMIZED_TELEMETRY="false", OPENAI_AGENTS_DISABLE_TRACING="1", OPENAI_API_KEY="none")

CELLS = {
    "first": "import pandas as pd, matplotlib.pyplot as plt; from sklearn.linear_model import LinearRegression",
    "frame": "pd.DataFrame({'a': range(3), 'b': list('xyz')})",
    "plot": "plt.plot([1, 2]); plt.show()",
    "model": "LinearRegression()",
    "error": "1/0",
}


def plain(value: Any) -> Any:
    """As JSON; what is none is shown by its name and fields."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if isinstance(getattr(value, "data", None), bytes):
        return {"media_type": value.media_type, "data": base64.b64encode(value.data).decode()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return f"<{type(value).__module__}.{type(value).__name__}>"


async def python_sdk_1(url: str) -> dict[str, Any]:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        return {
            name: plain((await session.call_tool("run_python_code", {"code": code})).content)
            for name, code in CELLS.items()
        }


async def openai_agents(url: str, structured: bool) -> dict[str, Any]:
    from agents import ItemHelpers
    from agents.mcp import MCPServerStreamableHttp
    from agents.mcp.util import MCPUtil
    from agents.run_context import RunContextWrapper
    from openai.types.responses import ResponseFunctionToolCall

    shown = {}
    server = MCPServerStreamableHttp({"url": url}, client_session_timeout_seconds=60, use_structured_content=structured)
    async with server:
        [tool] = [tool for tool in await server.list_tools() if tool.name == "run_python_code"]
        for name, code in CELLS.items():
            arguments = json.dumps({"code": code})
            output = await MCPUtil.invoke_mcp_tool(server, tool, RunContextWrapper(None), arguments)
            asked = ResponseFunctionToolCall(call_id="1", name=tool.name, arguments=arguments, type="function_call")
            shown[name] = plain(ItemHelpers.tool_call_output_item(asked, output))
    return shown


async def langchain(url: str) -> dict[str, Any]:
    from langchain_anthropic.chat_models import _format_messages
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_mcp_adapters.client import MultiServerMCPClient
    from langchain_openai.chat_models.base import _construct_responses_api_input, _convert_message_to_dict

    client = MultiServerMCPClient({"forkpy": {"transport": "streamable_http", "url": url}})
    [tool] = [tool for tool in await client.get_tools() if tool.name == "run_python_code"]
    shown: dict[str, Any] = {"openai": {}, "responses": {}, "anthropic": {}}
    for name, code in CELLS.items():
        asked = {"type": "tool_call", "id": "1", "name": tool.name, "args": {"code": code}}
        message = await tool.ainvoke(asked)
        shown["openai"][name] = plain(_convert_message_to_dict(message))
        shown["responses"][name] = plain(_construct_responses_api_input([message]))
        conversation = [HumanMessage("go on"), AIMessage("", tool_calls=[asked]), message]
        shown["anthropic"][name] = plain(_format_messages(conversation, model="claude-opus-4")[1][-1])
    return shown


async def pydantic_ai(url: str) -> dict[str, Any]:
    from pydantic_ai.mcp import MCPToolset

    shown = {}
    async with MCPToolset(url) as server:
        for name, code in CELLS.items():
            shown[name] = plain(await server.direct_call_tool("run_python_code", {"code": code}))
    return shown


def smolagents(url: str) -> dict[str, Any]:
    from smolagents import MCPClient

    with MCPClient({"url": url, "transport": "streamable-http"}, structured_output=False) as tools:
        [tool] = [tool for tool in tools if tool.name == "run_python_code"]
        return {name: plain(tool(code=code)) for name, code in CELLS.items()}


async def mcp_use(url: str) -> dict[str, Any]:
    from mcp_use import MCPClient
    from mcp_use.agents.adapters.langchain_adapter import LangChainAdapter

    client = MCPClient.from_dict({"mcpServers": {"forkpy": {"url": url}}})
    try:
        await client.create_all_sessions()
        adapter = LangChainAdapter()
        await adapter.create_all(client)
        [tool] = [tool for tool in adapter.tools if tool.name == "run_python_code"]
        return {name: plain(await tool.ainvoke({"code": code})) for name, code in CELLS.items()}
    finally:
        await client.close_all_sessions()


async def main(url: str) -> dict[str, Any]:
    return {
        "python sdk 1": await python_sdk_1(url),
        "openai agents": await openai_agents(url, structured=False),
        "openai agents, structured": await openai_agents(url, structured=True),
        "langchain": await langchain(url),
        "pydantic-ai": await pydantic_ai(url),
        "smolagents": await asyncio.to_thread(smolagents, url),
        "mcp-use": await mcp_use(url),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
