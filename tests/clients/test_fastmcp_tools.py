"""The tools as FastMCP's client sees them, in both protocol eras, over both transports."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastmcp.client.elicitation import ElicitResult
from fastmcp.exceptions import ToolError
from mcp.shared.exceptions import MCPError

from support import Forkpy, eventually

if TYPE_CHECKING:
    from fastmcp import Client

TOOLS = {
    "run_python_code",
    "list_variables",
    "restart_kernel",
    "create_session",
    "switch_session",
    "list_sessions",
    "delete_session",
    "get_kernel_health",
    "check_kernel_responsiveness",
    "ping",
    "get_workspace_info",
}
READ_ONLY = {
    "list_variables",
    "list_sessions",
    "get_kernel_health",
    "check_kernel_responsiveness",
    "ping",
    "get_workspace_info",
}
STATELESS = "2026-07-28"


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result.data, dict), f"result.data of {tool} is no dict: its output schema has root properties"
    assert result.data == result.structured_content
    return result.data


async def run(client: Client, code: str, **arguments: Any) -> dict[str, Any]:
    return await call(client, "run_python_code", code=code, **arguments)


async def refused(client: Client, tool: str, *words: str, **arguments: Any) -> str:
    """A call that the server refuses, as a tool error or a protocol error, in words that help."""
    with pytest.raises((ToolError, MCPError)) as caught:
        await client.call_tool(tool, arguments)
    message = str(caught.value)
    for word in words:
        assert word in message
    return message


async def test_protocol_era(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        assert client.protocol_version == (STATELESS if mode == "auto" else "2025-11-25")
        assert client.server_info is not None
        assert client.server_info.name == "forkpy"
        assert client.server_capabilities.tools is not None


async def test_list_tools(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        tools = {tool.name: tool for tool in await client.list_tools()}
        assert set(tools) >= TOOLS
        for name, tool in tools.items():
            assert tool.description, name
            assert tool.input_schema["type"] == "object", name
            assert tool.input_schema.get("additionalProperties") is False, name
            assert tool.output_schema is not None, name
            assert "properties" not in tool.output_schema, f"{name}: FastMCP's data['key'] would fail"
            assert tool.annotations is not None, name
            if name in TOOLS:
                assert (tool.annotations.read_only_hint is True) is (name in READ_ONLY), name
        for name in TOOLS - {"ping", "get_workspace_info", "list_sessions"}:
            assert "session_id" in tools[name].input_schema["properties"], name
        assert tools["run_python_code"].input_schema["required"] == ["code"]
        assert tools["delete_session"].annotations.destructive_hint is True
        assert [tool.name for tool in await client.list_tools()] == list(tools)


async def test_run_a_cell(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        reply = await run(client, "import sys\nx = 20\nprint('out')\nprint('err', file=sys.stderr)\nx + 1")
        assert reply["stdout"] == "out\n"
        assert reply["stderr"] == "err\n"
        assert "21" in str(reply["results"])
        assert reply["outputs"] == []
        assert reply["new_files"] == []
        assert 0 <= reply["execution_time"] < 5
        assert reply["status"] == "ok"
        assert reply["session_id"] == "default"
        assert reply["state"] == "kept"
        assert reply.get("error") is None
        again = await run(client, "print(x)")
        assert again["stdout"] == "20\n"
        assert again["cell"] == reply["cell"] + 1
        variables = (await call(client, "list_variables"))["variables"]
        assert "20" in variables["x"]
        assert "sys" not in variables


async def test_an_exception_is_a_result(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        result = await client.call_tool("run_python_code", {"code": "y = 1\nprint('before')\n1 / 0"})
        assert result.is_error is False
        reply = result.data
        assert reply["status"] == "error"
        assert reply["stdout"] == "before\n"
        assert "ZeroDivisionError" in reply["stderr"]
        assert reply["error"]["type"] == "ZeroDivisionError"
        assert reply["error"]["line"] == 3
        assert reply["error"]["message"] == "division by zero"
        assert reply["state"] == "kept"
        assert (await run(client, "print(y)"))["stdout"] == "1\n"


async def test_timeout_is_an_error_and_keeps_the_state(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        code = "z = 1\nprint('begun')\nimport time\ntime.sleep(60)"
        result = await client.call_tool("run_python_code", {"code": code, "timeout": 1}, raise_on_error=False)
        assert result.is_error is True
        assert result.structured_content["status"] == "timeout"
        assert result.structured_content["stdout"] == "begun\n"
        assert result.structured_content["state"] == "kept"
        assert (await run(client, "print(z)"))["stdout"] == "1\n"


async def test_cancel_a_running_cell(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        await run(client, "x = 41; steps = []")
        for giving_up in ("task", "timeout"):
            code = "import time\nsteps.append(1)\ntime.sleep(60)\nsteps.append(2)"
            if giving_up == "task":
                cell = asyncio.create_task(client.call_tool("run_python_code", {"code": code}))
                await until_state(client, "busy")
                cell.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cell
            else:
                with pytest.raises(MCPError):
                    await client.call_tool("run_python_code", {"code": code}, timeout=2)
            asked = time.monotonic()
            reply = await run(client, "print(x, steps)\nsteps.clear()")
            assert reply["stdout"] == "41 [1]\n"
            assert reply["state"] == "kept"
            assert time.monotonic() - asked < 10
            await until_state(client, "idle")


async def until_state(client: Client, state: str) -> dict[str, Any]:
    return await eventually(lambda: call(client, "get_kernel_health"), lambda seen: seen["state"] == state, state)


async def test_a_cancelled_cell_that_waits_never_runs(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "ran = []")
        first = asyncio.create_task(client.call_tool("run_python_code", {"code": "import time\ntime.sleep(3)"}))
        await until_state(client, "busy")
        waiting = asyncio.create_task(client.call_tool("run_python_code", {"code": "ran.append('waiting')"}))
        await asyncio.sleep(0.5)
        waiting.cancel()
        last = await run(client, "print(ran)")
        assert last["stdout"] == "[]\n"
        assert last["queued_time"] > 0.5
        assert (await first).data["status"] == "ok"


async def test_progress_of_a_silent_cell(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        seen: list[tuple[float, float | None, str | None]] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append((progress, total, message))

        result = await client.call_tool(
            "run_python_code", {"code": "import time\ntime.sleep(6)"}, progress_handler=note
        )
        assert result.data["status"] == "ok"
        assert seen
        values = [progress for progress, _, _ in seen]
        assert values == sorted(set(values)), "progress must increase"


async def test_output_arrives_while_the_cell_runs(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        heard = ""

        async def note(progress: float, total: float | None, message: str | None) -> None:
            nonlocal heard
            heard += message or ""
            if "one" in heard:
                (forkpy.workspace / "go").touch()

        code = (
            "import os, time\nprint('one')\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
            "for n in range(101): print(f'\\r{n}%', end='')"
        )
        result = await client.call_tool("run_python_code", {"code": code}, progress_handler=note)
        assert result.data["stdout"] == "one\n100%"
        assert heard.startswith("one\n")


async def test_input_is_answered_by_the_user(forkpy: Forkpy, mode: str) -> None:
    answers: list[Any] = [{"input": "Ada"}, ElicitResult(action="accept"), ElicitResult(action="decline")]
    asked: list[str] = []

    async def ask(message: str, response_type: Any, params: Any, context: Any) -> Any:
        asked.append(message)
        return answers.pop(0)

    async with forkpy.client(mode, elicitation_handler=ask) as client:
        reply = await run(client, "runs = 1 + globals().get('runs', 0)\nname = input('Name: ')\nnick = input('Nick: ')")
        assert reply["status"] == "ok"
        assert reply["stdout"] == "Name: Nick: "
        assert (await run(client, "print(runs, name, [nick])"))["stdout"] == "1 Ada ['']\n"
        declined = await run(client, "input('More? ')")
        assert declined["error"]["type"] == "EOFError"
        assert "declined" in declined["error"]["message"]
        assert [message.rsplit("\n", 1)[-1] for message in asked] == ["Name:", "Nick:", "More?"]
    async with forkpy.client(mode) as client:
        refused = await run(client, "input()")
        assert refused["error"]["type"] == "EOFError"
        assert "elicitation" in refused["error"]["message"]


async def test_sessions(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        created = await call(client, "create_session", session_id="analysis", description="numbers")
        assert created["session_id"] == "analysis"
        assert created["status"] == "created"
        assert created["description"] == "numbers"
        assert {"metadata", "timestamp"} <= set(created)
        assert (await call(client, "create_session", session_id="analysis"))["status"] == "exists"
        made_up = (await call(client, "create_session"))["session_id"]
        assert made_up not in ("", "default", "analysis")

        await run(client, "x = 'default'")
        await run(client, "x = 'analysis'", session_id="analysis")
        switched = await call(client, "switch_session", session_id="analysis")
        assert switched["previous_session"] == "default"
        assert switched["current_session"] == "analysis"
        assert {"status", "timestamp"} <= set(switched)
        here = await run(client, "print(x)")
        assert (here["stdout"], here["session_id"]) == ("analysis\n", "analysis")
        there = await run(client, "print(x)", session_id="default")
        assert (there["stdout"], there["session_id"]) == ("default\n", "default")

        listed = await call(client, "list_sessions")
        assert set(listed["sessions"]) == {"default", "analysis", made_up}
        assert listed["active_session"] == "analysis"
        assert listed["total_sessions"] == 3
        assert listed["max_sessions"] >= 3
        entry = listed["sessions"]["analysis"]
        wanted = "active current description created_at last_activity execution_count uptime metadata health"
        assert set(wanted.split()) <= set(entry)
        assert entry["description"] == "numbers"
        assert entry["current"] is True
        assert entry["execution_count"] == 2
        assert listed["sessions"]["default"]["current"] is False

        deleted = await call(client, "delete_session", session_id=made_up)
        assert (deleted["session_id"], deleted["status"], deleted["was_active"]) == (made_up, "deleted", False)
        deleted = await call(client, "delete_session", session_id="analysis")
        assert deleted["was_active"] is True
        assert deleted["new_active_session"] == "default"
        assert (await run(client, "print(x)"))["stdout"] == "default\n"

        await refused(client, "delete_session", "default", session_id="default")
        for tool in ("switch_session", "delete_session", "get_kernel_health"):
            await refused(client, tool, "nowhere", session_id="nowhere")
        for bad in ("", "a" * 300, "../x"):
            await refused(client, "create_session", session_id=bad)
        assert set((await call(client, "list_sessions"))["sessions"]) == {"default"}


async def test_first_call_names_a_session(forkpy: Forkpy) -> None:
    """No client has to list the tools before it calls one with a `session_id`."""
    async with forkpy.client() as client:
        result = await client.call_tool_mcp("create_session", {"session_id": "early"})
        assert result.structured_content is not None
        assert result.structured_content["status"] == "created"


async def test_restart_kernel(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        await run(client, "x = 1")
        reply = await call(client, "restart_kernel")
        assert reply["restarted"] is True
        assert reply["session_id"] == "default"
        assert reply["preserve_state"] is False
        assert {"preserved_vars", "restored_vars", "timestamp"} <= set(reply)
        assert (await run(client, "print('x' in globals())"))["stdout"] == "False\n"

        await run(client, "x = {'a': [1, 2]}\nnumbers = (n for n in range(3))")
        before = (await call(client, "get_kernel_health"))["pid"]
        reply = await call(client, "restart_kernel", preserve_state=True)
        assert reply["preserve_state"] is True
        assert "x" in reply["preserved_vars"]
        assert "x" in reply["restored_vars"]
        assert "numbers" not in reply["restored_vars"]
        assert "numbers" in str(reply), "what was left behind is named"
        assert (await run(client, "print(x, 'numbers' in globals())"))["stdout"] == "{'a': [1, 2]} False\n"
        assert (await call(client, "get_kernel_health"))["pid"] != before


async def test_ping_and_workspace(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        pong = await call(client, "ping")
        assert pong["status"] == "pong"
        assert pong["ok"] is True
        assert pong["timestamp"]
        if mode == "legacy":
            assert await client.ping() is True
        info = await call(client, "get_workspace_info")
        assert Path(info["workspace"]).samefile(forkpy.workspace)
        for name in ("scripts", "outputs", "uploads"):
            assert info[f"{name}_dir"] == info[name]
            assert Path(forkpy.workspace, info[name]).resolve() == forkpy.workspace.resolve() / name
        made = await run(client, "open('made.txt', 'w').write('x')\nimport os\nprint(os.getcwd())")
        assert Path(made["stdout"].strip()).samefile(forkpy.workspace)
        assert "made.txt" in str(made["new_files"])


async def test_refusals_help(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        await refused(client, "no_such_tool", "no_such_tool")
        await refused(client, "run_python_code", "kode", "code", "timeout", kode="1")
        await refused(client, "run_python_code", "code", code=5)
        await refused(client, "ping", "bogus", bogus=1)
        assert (await run(client, "1 + 1"))["status"] == "ok"


async def test_two_http_clients_have_their_own_active_session(forkpy_http: Forkpy, mode: str) -> None:
    async with forkpy_http.client(mode) as one, forkpy_http.client(mode) as two:
        await run(one, "where = 'default of one'")
        await run(two, "where = 'default'")
        await call(one, "create_session", session_id="one")
        assert (await call(one, "switch_session", session_id="one"))["current_session"] == "one"
        await run(one, "where = 'one'")

        assert (await call(two, "list_sessions"))["active_session"] == "default"
        assert (await run(two, "print(where)"))["stdout"] == "default\n"
        await call(two, "create_session", session_id="two")
        await call(two, "switch_session", session_id="two")

        assert (await call(one, "list_sessions"))["active_session"] == "one"
        assert (await run(one, "print(where)"))["stdout"] == "one\n"
        # Longer than the idle time after which the client closes its connections.
        await asyncio.sleep(6)
        assert (await run(one, "print(where)"))["session_id"] == "one"
        assert (await run(two, "1"))["session_id"] == "two"
        calls = [run(client, "1") for client in (one, two, one, two)]
        assert [reply["session_id"] for reply in await asyncio.gather(*calls)] == ["one", "two", "one", "two"]


async def test_two_eras_share_one_server(tmp_path: Path) -> None:
    with Forkpy("http", tmp_path, "--share-sessions") as forkpy:
        await share(forkpy)


async def share(forkpy: Forkpy) -> None:
    async with forkpy.client("auto") as modern, forkpy.client("legacy") as legacy:
        await call(modern, "create_session", session_id="shared")
        await run(modern, "x = 5", session_id="shared")
        await call(legacy, "switch_session", session_id="shared")
        assert (await run(legacy, "print(x)"))["stdout"] == "5\n"
        assert (await call(modern, "list_sessions"))["active_session"] == "default"


async def test_stdio_process_serves_two_connections_in_turn(forkpy_stdio: Forkpy) -> None:
    """FastMCP keeps the process by default: the next `async with` negotiates again over the same pipe."""
    client = forkpy_stdio.client()
    client.transport.keep_alive = True
    try:
        async with client:
            await run(client, "import os\nx = os.getppid()")
        async with client:
            assert (await run(client, "print(x == os.getppid())"))["stdout"] == "True\n"
    finally:
        await client.transport.close()


async def test_stdio_leaves_nothing_behind(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        pid = (await call(client, "get_kernel_health"))["pid"]
        code = "import subprocess\nprint(subprocess.Popen(['sleep', '300']).pid)"
        child = int((await run(client, code))["stdout"])
    for process in (pid, child):
        await eventually(lambda process=process: alive(process), lambda seen: not seen, f"the end of {process}", 5)


async def alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()
