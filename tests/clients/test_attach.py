"""Sessions that outlive their clients, through the real libraries: a process for each call, a call that is given up."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import fastmcp
import mcp
import pytest
from fastmcp.client.transports import StdioTransport
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from support import binary, passed_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Attached:
    """What clients start: `forkpy attach`, in a runtime directory of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.arguments = ["attach", "--workspace", str(directory / "workspace")]
        self.environment = {**passed_on(), "XDG_RUNTIME_DIR": str(directory)}

    def fastmcp(self) -> fastmcp.Client:
        transport = StdioTransport(binary(), self.arguments, env=self.environment, keep_alive=False)
        return fastmcp.Client(transport)

    def sdk(self, **options: Any) -> mcp.Client:
        parameters = StdioServerParameters(command=binary(), args=self.arguments, env=self.environment)
        return mcp.Client(stdio_client(parameters), **options)


@pytest.fixture
def attached(tmp_path: Path) -> Iterator[Attached]:
    made = Attached(tmp_path)
    try:
        yield made
    finally:
        stop = [binary(), "stop", "--all"]
        subprocess.run(stop, env={**os.environ, **made.environment}, check=True, timeout=60)


async def test_a_new_process_for_each_call_keeps_its_variables(attached: Attached) -> None:
    """LangChain's adapters do so by default."""
    for number in range(4):
        async with attached.fastmcp() as client:
            code = "x = 0" if number == 0 else "x += 1; x"
            reply = (await client.call_tool("run_python_code", {"code": code})).data
            assert reply["state"] == "kept"
            if number:
                assert reply["results"] == [str(number)]
                assert 'Session "default" goes on' in reply["notice"]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_call_that_its_client_gave_up_is_neither_lost_nor_run_twice(attached: Attached, mode: str) -> None:
    code = "import time\nruns = globals().get('runs', 0) + 1\ntime.sleep(4)\nprint('through')\nruns"
    async with attached.sdk(mode=mode) as client:
        with pytest.raises(MCPError):
            await client.call_tool("run_python_code", {"code": code}, read_timeout_seconds=1.0)
    async with attached.sdk(mode=mode) as client:
        result = await client.call_tool("wait_for_cell", {})
        reply = result.structured_content
        if reply["status"] == "cancelled":
            # This client takes back what it gives up: the code was interrupted, and says so.
            assert "interrupted" in reply["notice"]
        else:
            assert (reply["status"], reply["stdout"], reply["results"]) == ("ok", "through\n", ["1"])
        count = await client.call_tool("run_python_code", {"code": "runs"})
        assert count.structured_content["results"] == ["1"]
