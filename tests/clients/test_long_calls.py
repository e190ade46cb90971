"""A job that takes longer than its client waits: nothing is lost, and nothing is run twice.

Through the real libraries, each with its own default time-out, over `forkpy attach`. The job is longer than the
shortest of these time-outs, the 5 s of OpenAI Agents; FORKPY_LONG_JOB=90 makes it longer than all but the endless ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastmcp
import mcp
import pytest
from fastmcp.client.transports import StdioTransport
from mcp.client.stdio import StdioServerParameters, stdio_client

from support import binary, node, passed_on

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("FORKPY_LONG_JOB", "8"))
LIMIT = 3 * SECONDS + 200
PYTHON = ["python sdk 1", "openai agents", "langchain", "pydantic-ai", "smolagents", "mcp-use"]
TYPESCRIPT = ["typescript sdk 1", "typescript sdk 2", "typescript sdk 2, stateless"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    made = {**passed_on(), "XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("long"))}
    try:
        yield made
    finally:
        subprocess.run([binary(), "stop", "--all"], env={**os.environ, **made}, check=True, timeout=60)


@pytest.fixture(scope="module")
def arguments(environment: dict[str, str]) -> list[str]:
    return ["attach", "--workspace", str(Path(environment["XDG_RUNTIME_DIR"]) / "workspace")]


@pytest.fixture(scope="module")
def replies(environment: dict[str, str], arguments: list[str]) -> dict[str, Any]:
    """All at the same time, of one server."""
    python = os.environ.get("FORKPY_AGENTS")
    assert python, "set FORKPY_AGENTS to what prepare.py printed"
    path, directory = node()
    job = [str(SECONDS), binary(), *arguments]
    surroundings = {**os.environ, **environment, "NO_COLOR": "1", "FORKPY_SERVER_ENV": json.dumps(environment)}
    surroundings["FORKPY_NODE_DIR"] = str(directory)
    surroundings.pop("PYTHONPATH", None)
    programs = [[python, str(HERE / "long_calls.py")], [path, str(HERE / "long_calls.mjs")]]
    running = [
        subprocess.Popen(
            [*program, *job],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings,
        )
        for program in programs
    ]
    replies: dict[str, Any] = {}
    try:
        for program in running:
            out, err = program.communicate(timeout=LIMIT)
            print(err[-8000:])
            assert program.returncode == 0
            replies |= json.loads(out.strip().splitlines()[-1])
    finally:
        for program in running:
            program.kill()
            program.wait()
    print(json.dumps(replies, indent=1))
    return replies


@pytest.mark.parametrize("library", [*PYTHON, *TYPESCRIPT])
def test_nothing_is_lost_and_nothing_runs_twice(replies: dict[str, Any], library: str) -> None:
    reply = replies[library]
    assert "failed" not in reply, reply
    # OpenAI Agents gives up after 5 s, and is called "mcp" as those are that wait: what it gave up goes on.
    assert bool(reply["gave up"]) == (library == "openai agents"), "all others are answered before their time is over"
    texts = reply["texts"]
    assert "done 1" in texts[-1]
    # Behind it may stand what the first reply of a process says besides.
    assert reply["count"].splitlines()[0] == "1"
    assert any("begun" in text for text in texts)
    if library in PYTHON:
        assert "second 2" in reply["later"][-1]


def test_a_process_for_each_call_keeps_its_variables(replies: dict[str, Any]) -> None:
    """What LangChain's adapters do by default."""
    assert [text.splitlines()[0] for text in replies["langchain"]["variables"][1:]] == ["2", "3"]


async def test_the_newer_clients_too(environment: dict[str, str], arguments: list[str]) -> None:
    parameters = StdioServerParameters(command=binary(), args=arguments, env=environment)
    transport = StdioTransport(binary(), arguments, env=environment, keep_alive=False)
    clients: dict[str, Any] = {"fastmcp": fastmcp.Client(transport), "sdk2": mcp.Client(stdio_client(parameters))}

    async def followed(session: str, client: Any) -> int:
        async with client:

            async def call(tool: str, **given: Any) -> dict[str, Any]:
                result = await client.call_tool(tool, {**given, "session_id": session})
                return result.structured_content

            await call("create_session")
            code = f"import time\nruns = globals().get('runs', 0) + 1\ntime.sleep({SECONDS})\nruns"
            began = time.monotonic()
            reply = await call("run_python_code", code=code)
            calls = 1
            while reply["status"] in ("running", "queued"):
                reply = await call("wait_for_cell", cell=reply["cell"])
                calls += 1
            print(f"{session}: {calls} calls, {time.monotonic() - began:.1f} s")
            assert (reply["status"], reply["results"]) == ("ok", ["1"])
            assert (await call("run_python_code", code="runs"))["results"] == ["1"]
            return calls

    await asyncio.gather(*(followed(name, client) for name, client in clients.items()))
