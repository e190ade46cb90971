"""What forkpy does by itself about sick sessions, as FastMCP's client sees it, in both eras, over both transports."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from support import eventually, sigkill

if TYPE_CHECKING:
    from fastmcp import Client

    from support import Forkpy


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    return (await client.call_tool(tool, arguments, raise_on_error=False)).data


async def test_a_session_that_died_comes_back_and_its_death_can_be_read(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        await call(client, "run_python_code", code="x = 1")
        await call(client, "configure_health", recovery="auto")

        async def health() -> dict[str, Any]:
            return await call(client, "get_kernel_health")

        before = await eventually(health, lambda seen: seen["checkpoints"].get("last") == 1, "the copy of it at rest")
        sigkill(before["pid"])

        after = await eventually(
            health,
            lambda seen: [step["verified"] for step in seen["recovery"].get("steps", [])] == [True],
            "a new worker",
        )
        assert (after["status"], after["restarts"]) == ("healthy", 1)
        assert after["pid"] != before["pid"]
        reply = await call(client, "run_python_code", code="'x' in globals()")
        assert (reply["results"], reply["state"]) == (["True"], "restored")
        [crash] = (await call(client, "list_crashes"))["crashes"]
        assert (crash["session_id"], crash["signal"], crash["reason"]) == ("default", "SIGKILL", "died")
        report = (await call(client, "list_crashes", id=crash["id"]))["report"]
        [contents] = await client.read_resource(f"health://crashes/{crash['id']}")
        assert json.loads(contents.text) == report
        on_disk = json.loads((forkpy.workspace / crash["path"]).read_text())
        assert on_disk["pid"] == before["pid"]


async def test_stacks_of_a_busy_session(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        await call(client, "create_session", session_id="work", health={"hung_after": 1, "recovery": "auto"})
        code = "import ctypes\ndef holder():\n    ctypes.PyDLL(None).sleep(60)\nholder()"

        async def stacks() -> dict[str, Any]:
            return await call(client, "dump_stacks", session_id="work")

        cell = asyncio.create_task(call(client, "run_python_code", code=code, session_id="work"))
        seen = await eventually(
            stacks, lambda seen: "in holder" in seen.get("stacks", {}).get("python", ""), "the call"
        )
        assert seen["cell"] == 1
        # Hung for a second, and the policy is auto: interrupted, and the variables are kept.
        reply = await cell
        assert (reply["status"], reply["state"]) == ("interrupted", "kept")
        health = await call(client, "get_kernel_health", session_id="work", history="5m")
        assert [step["step"] for step in health["recovery"]["steps"]] == ["interrupt"]
        assert health["history"]["samples"]


async def test_health_resources_say_what_the_tools_say(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        await call(client, "run_python_code", code="1")
        uris = {str(resource.uri) for resource in await client.list_resources()}
        assert {"health://report", "health://alerts", "health://sessions/default"} <= uris
        [contents] = await client.read_resource("health://sessions/default")
        told = json.loads(contents.text)
        asked = await call(client, "get_kernel_health")
        assert told.keys() == asked.keys()
        assert (told["status"], told["pid"]) == (asked["status"], asked["pid"])
        [contents] = await client.read_resource("health://report")
        assert json.loads(contents.text)["sessions"].keys() == {"default"}
