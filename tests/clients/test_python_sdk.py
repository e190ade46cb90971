"""The core of the tools through the official Python SDK's client, in both protocol eras, over both transports."""

from __future__ import annotations

import asyncio
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult, ProgressNotification

from support import eventually, sigkill

if TYPE_CHECKING:
    import mcp

    from support import Forkpy


@pytest.fixture(params=["auto", "legacy", "2026-07-28"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


async def call(client: mcp.Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """A call that succeeds; the SDK has checked the reply against the tool's output schema."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error is not True, result
    assert result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def run(client: mcp.Client, code: str, **arguments: Any) -> dict[str, Any]:
    return await call(client, "run_python_code", code=code, **arguments)


async def until_state(client: mcp.Client, state: str) -> dict[str, Any]:
    return await eventually(lambda: call(client, "get_kernel_health"), lambda seen: seen["state"] == state, state)


async def test_connect_and_list(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.sdk_client(mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        tools = (await client.list_tools()).tools
        by_name = {tool.name: tool for tool in tools}
        assert len(by_name) == len(tools)
        assert {"run_python_code", "get_kernel_health", "ping"} <= set(by_name)
        for tool in tools:
            assert tool.description
            assert tool.input_schema
            assert tool.output_schema
            assert tool.annotations
        if mode == "legacy":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                await client.send_ping()


async def test_cells(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.sdk_client(mode) as client:
        reply = await run(client, "x = 6\nprint('six')\nx * 7")
        assert reply["status"] == "ok"
        assert reply["stdout"] == "six\n"
        assert "42" in str(reply["results"])
        failed = await run(client, "{}['key']")
        assert failed["status"] == "error"
        assert failed["error"]["type"] == "KeyError"
        assert "KeyError" in failed["stderr"]
        assert (await run(client, "print(x)"))["stdout"] == "6\n"
        text = (await client.call_tool("run_python_code", {"code": "print('for people')"})).content[0]
        assert text.type == "text"
        assert "for people" in text.text


async def test_every_reply_fits_its_schema(forkpy: Forkpy, mode: str) -> None:
    """The SDK raises where a reply does not match the output schema: nulls, for a dead kernel, included."""
    async with forkpy.sdk_client(mode) as client:
        await run(client, "x = 1")
        for tool in ("ping", "get_workspace_info", "list_variables", "list_sessions"):
            await call(client, tool)
        await call(client, "create_session", session_id="a", description="text")
        await call(client, "create_session", session_id="a")
        await call(client, "switch_session", session_id="a")
        await call(client, "delete_session", session_id="a")
        await call(client, "restart_kernel", preserve_state=True)
        await call(client, "check_kernel_responsiveness", timeout=2)
        died = await client.call_tool("run_python_code", {"code": "import os\nos._exit(3)"})
        assert died.is_error is True
        assert died.structured_content is not None
        assert died.structured_content["status"] == "died"
        assert died.structured_content["state"] == "restored", "from the copy that a session at rest keeps"
        # A server that recovers sessions by itself may be quicker than the next look.
        await call(client, "configure_health", recovery="manual")
        sigkill((await call(client, "get_kernel_health"))["pid"])
        await until_state(client, "dead")
        assert (await call(client, "get_kernel_health"))["pid"] is None
        assert (await call(client, "check_kernel_responsiveness"))["responsive"] is False
        await call(client, "list_sessions")
        await call(client, "restart_kernel")
        assert (await call(client, "get_kernel_health"))["status"] == "healthy"


async def test_cancel(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.sdk_client(mode) as client:
        await run(client, "x = 41; steps = []")
        code = "import time\nsteps.append(1)\ntime.sleep(60)\nsteps.append(2)"

        cell = asyncio.create_task(client.call_tool("run_python_code", {"code": code}))
        await until_state(client, "busy")
        cell.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cell
        asked = time.monotonic()
        assert (await run(client, "print(x, steps)"))["stdout"] == "41 [1]\n"
        assert time.monotonic() - asked < 10

        with pytest.raises(MCPError):
            await client.call_tool("run_python_code", {"code": code}, read_timeout_seconds=2)
        assert (await run(client, "print(x, steps)"))["stdout"] == "41 [1, 1]\n"
        assert (await until_state(client, "idle"))["status"] == "healthy"


async def test_progress_only_for_those_who_ask(forkpy: Forkpy, mode: str) -> None:
    unasked: list[Any] = []
    asked: list[float] = []

    async def note_message(message: Any) -> None:
        if isinstance(message, ProgressNotification):
            unasked.append(message)

    async def note(progress: float, total: float | None, message: str | None) -> None:
        asked.append(progress)

    silent = {"code": "import time\ntime.sleep(6)"}
    async with forkpy.sdk_client(mode, message_handler=note_message) as quiet, forkpy.sdk_client(mode) as curious:
        await call(curious, "create_session", session_id="curious")
        await asyncio.gather(
            quiet.call_tool("run_python_code", silent),
            curious.call_tool("run_python_code", {**silent, "session_id": "curious"}, progress_callback=note),
        )
        assert unasked == []
        assert asked
        assert asked == sorted(set(asked))
        count = len(asked)
        await run(curious, "1")
        assert len(asked) == count, "progress after the reply"


async def test_output_arrives_while_the_cell_runs(forkpy: Forkpy, mode: str) -> None:
    heard = ""

    async def note(progress: float, total: float | None, message: str | None) -> None:
        nonlocal heard
        heard += message or ""
        (forkpy.workspace / "go").touch()

    code = "import os, time\nprint('one')\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('two')"
    async with forkpy.sdk_client(mode) as client:
        reply = await client.call_tool("run_python_code", {"code": code}, progress_callback=note)
        assert reply.structured_content["stdout"] == "one\ntwo\n"
        assert heard.startswith("one\n")


async def test_input_is_answered_by_the_user(forkpy: Forkpy, mode: str) -> None:
    answers = [
        ElicitResult(action="accept", content={"input": "Ada"}),
        ElicitResult(action="accept", content={"input": ""}),
        ElicitResult(action="cancel"),
    ]
    asked: list[str] = []

    async def ask(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return answers.pop(0)

    async with forkpy.sdk_client(mode, elicitation_callback=ask) as client:
        code = "runs = 1 + globals().get('runs', 0)\nimport sys\nname, rest = input('Name: '), sys.stdin.readline()"
        assert (await run(client, code))["status"] == "ok"
        assert (await run(client, "print(runs, [name, rest])"))["stdout"] == "1 ['Ada', '\\n']\n"
        assert "dismissed" in (await run(client, "input()"))["error"]["message"]
        assert asked[0].endswith("Name:")
        assert len(asked) == 3


async def test_sessions(forkpy: Forkpy) -> None:
    async with forkpy.sdk_client() as client:
        await call(client, "create_session", session_id="a")
        await call(client, "switch_session", session_id="a")
        assert (await run(client, "x = 1"))["session_id"] == "a"
        assert (await call(client, "list_sessions"))["active_session"] == "a"
        unknown = await client.call_tool("switch_session", {"session_id": "nowhere"})
        assert unknown.is_error is True
        deleted = await call(client, "delete_session", session_id="a")
        assert deleted["new_active_session"] == "default"


async def test_two_http_clients_have_their_own_active_session(forkpy_http: Forkpy) -> None:
    async with forkpy_http.sdk_client() as one, forkpy_http.sdk_client() as two:
        await call(one, "create_session", session_id="one")
        await call(one, "switch_session", session_id="one")
        assert (await run(one, "1"))["session_id"] == "one"
        assert (await run(two, "1"))["session_id"] == "default"


async def test_many_concurrent_cells_in_many_sessions(forkpy: Forkpy) -> None:
    """Sessions run side by side; the cells of one session run in order."""
    async with forkpy.sdk_client() as client:
        names = [f"s{number}" for number in range(4)]
        for name in names:
            await call(client, "create_session", session_id=name)
            await run(client, "log = []", session_id=name)
        begun = time.monotonic()
        code = "import time\nlog.append({0})\ntime.sleep(0.5)\nprint(log)"
        cells = [run(client, code.format(turn), session_id=name) for name in names for turn in range(3)]
        replies = await asyncio.gather(*cells)
        assert time.monotonic() - begun < 5, "sessions waited for one another"
        for index, name in enumerate(names):
            mine = replies[index * 3 : index * 3 + 3]
            assert [reply["session_id"] for reply in mine] == [name] * 3
            assert sorted(len(reply["stdout"].split(",")) for reply in mine) == [1, 2, 3]
