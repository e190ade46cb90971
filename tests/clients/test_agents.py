"""What the libraries for agents would put before a model; agent_libraries.py runs in their environment."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import Forkpy

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).with_name("agent_libraries.py")
TABLE = "   a  b\\n0  0  x\\n1  1  y\\n2  2  z"
# The first bytes of a PNG in base64.
PNG = "iVBORw0KGgo"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkpy]:
    # Some of them open a connection for each call, and what the first cell imports must be there for the next.
    with Forkpy("http", tmp_path_factory.mktemp("agents"), "--share-sessions", "--checkpoints", "off") as forkpy:
        yield forkpy


@pytest.fixture(scope="module")
def shown(server: Forkpy) -> dict[str, Any]:
    python = os.environ.get("FORKPY_AGENTS")
    assert python, "set FORKPY_AGENTS to what prepare.py printed"
    done = subprocess.run(
        [python, str(SCRIPT), server.url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, "NO_COLOR": "1"},
    )
    print(done.stderr[-8000:])
    assert done.returncode == 0
    return json.loads(done.stdout.strip().splitlines()[-1])


# Where each library's message for the model lies, and whether pictures reach it.
PLACES = {
    "python sdk 1": (["python sdk 1"], True),
    "openai agents": (["openai agents"], True),
    # The user of this setting has chosen structure, which has the picture's file.
    "openai agents, structured": (["openai agents, structured"], False),
    "langchain, openai": (["langchain", "openai"], True),
    "langchain, openai responses": (["langchain", "responses"], True),
    "langchain, anthropic": (["langchain", "anthropic"], True),
    "pydantic-ai": (["pydantic-ai"], True),
    # The first item of the content alone: it says what the picture is and where.
    "smolagents": (["smolagents"], False),
    "mcp-use": (["mcp-use"], True),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_a_model_sees(shown: dict[str, Any], name: str) -> None:
    keys, has_pictures = PLACES[name]
    seen: Any = shown
    for key in keys:
        seen = seen[key]
    seen = {cell: json.dumps(message) for cell, message in seen.items()}
    # Structure is text within text.
    assert TABLE in seen["frame"].replace("\\\\n", "\\n")
    assert "LinearRegression()" in seen["model"]
    assert "ZeroDivisionError: division by zero" in seen["error"]
    assert "Traceback" in seen["error"]
    assert "Figure" in seen["plot"]
    assert ".png" in seen["plot"]
    assert (PNG in seen["plot"]) == has_pictures
    for cell, message in seen.items():
        # What no model and no provider can open, and pages beside what was shown.
        assert "file://" not in message, cell
        assert "resource_link" not in message, cell
        assert ".html" not in message, cell


async def test_the_official_clients_see_the_same(server: Forkpy) -> None:
    """FastMCP and the Python SDK 2."""
    plot = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"
    frame = "import pandas as pd; pd.DataFrame({'a': range(3), 'b': list('xyz')})"
    async with contextlib.AsyncExitStack() as stack:
        fastmcp = await stack.enter_async_context(server.client())
        sdk = await stack.enter_async_context(server.sdk_client())
        for client in (fastmcp, sdk):
            seen = await client.call_tool("run_python_code", {"code": plot})
            assert [block.type for block in seen.content] == ["text", "image"]
            assert seen.content[1].data.startswith(PNG)
            seen = await client.call_tool("run_python_code", {"code": frame})
            assert [block.text for block in seen.content] == [TABLE.replace("\\n", "\n")]
            assert len(json.dumps(seen.structured_content, separators=(",", ":"))) <= 600
            assert seen.structured_content["new_files"] == []
        assert (await fastmcp.call_tool("run_python_code", {"code": frame})).data["status"] == "ok"
