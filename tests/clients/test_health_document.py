"""Every workflow of the health monitoring document, over stdio and over HTTP, while all is well and while it is not."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import health_document as document
from health_document import or_zero
from support import eventually, sigkill, stopped_zygote

if TYPE_CHECKING:
    from fastmcp import Client

    from support import Forkpy

METRICS = ("memory_usage", "cpu_percent", "num_threads", "uptime")
BUSY = "import time\nend = time.time() + {seconds}\nwhile time.time() < end:\n    pass"
# sleep() called with the GIL held: nothing Python can do reaches the main thread.
HOLD_THE_GIL = "import ctypes\nctypes.PyDLL(None).sleep({seconds})"
# Garbage that only a collection frees, as the document's clean-up does one.
CYCLIC_GIGABYTE = """
import gc
gc.disable()
class Node:
    pass
node = Node()
node.itself = node
node.data = bytearray(b"x") * 1_100_000_000
del node
"""
NULL_ARITHMETIC = "unsupported operand type"


async def health(client: Client, **arguments: Any) -> dict[str, Any]:
    return (await client.call_tool("get_kernel_health", arguments)).data


async def run(client: Client, code: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool("run_python_code", {"code": code, **arguments})
    assert result.data["status"] == "ok", result.data
    return result.data


async def until_status(client: Client, status: str, **arguments: Any) -> dict[str, Any]:
    return await eventually(
        lambda: health(client, **arguments), lambda seen: seen["status"] == status, f"status {status}"
    )


async def until_state(client: Client, state: str, **arguments: Any) -> dict[str, Any]:
    return await eventually(lambda: health(client, **arguments), lambda seen: seen["state"] == state, f"state {state}")


async def until_held(client: Client, **arguments: Any) -> None:
    """A cell is busy before its native code holds the interpreter: wait for a ping that nobody answers."""

    async def answers() -> bool:
        return (await client.call_tool("check_kernel_responsiveness", {"timeout": 0.2, **arguments})).data["responsive"]

    await eventually(answers, lambda responsive: not responsive, "the interpreter to be held")


async def kill_worker(client: Client, **arguments: Any) -> int:
    """End the session's worker. One that is just copied is brought back at once, and killed again."""
    while True:
        pid = (await health(client, **arguments))["pid"]
        sigkill(pid)
        seen = await eventually(
            lambda: health(client, **arguments),
            lambda seen, pid=pid: seen["status"] == "dead" or seen["pid"] not in (pid, None),
            "the worker to be missed",
        )
        if seen["status"] == "dead":
            return pid


def start_cell(client: Client, code: str) -> asyncio.Task[Any]:
    return asyncio.create_task(client.call_tool("run_python_code", {"code": code}, raise_on_error=False))


# -- health metrics and states


async def test_metrics_of_a_healthy_kernel(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "ballast = bytearray(b'x') * 30_000_000")
        seen = await health(client)
        assert isinstance(seen, dict)
        assert seen["status"] == "healthy"
        assert seen["state"] == "idle"
        worker = psutil.Process(seen["pid"])
        assert isinstance(seen["memory_usage"], int)
        assert seen["memory_usage"] == pytest.approx(worker.memory_info().rss, rel=0.3)
        assert seen["memory_usage"] > 30_000_000
        assert seen["cpu_percent"] >= 0
        assert seen["num_threads"] == worker.num_threads()
        assert seen["uptime"] == pytest.approx(time.time() - worker.create_time(), abs=5)

        lines: list[str] = []
        await document.show_metrics(client, lines.append)
        await document.show_responsiveness(client, lines.append)
        assert lines[0] == "Status: healthy"
        assert lines[-1].startswith("Kernel responded in 0.")


async def test_a_killed_worker_is_dead_and_restart_heals(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        pid = await kill_worker(client)
        seen = await health(client)
        assert [seen[key] for key in ("pid", *METRICS)] == [None] * 5

        responsive = (await client.call_tool("check_kernel_responsiveness")).data
        assert responsive["responsive"] is False
        assert isinstance(responsive["response_time"], (int, float))
        lines: list[str] = []
        await document.show_metrics(client, lines.append)
        await document.show_responsiveness(client, lines.append)
        assert lines[:2] == ["Status: dead", "PID: None"]
        assert lines[-1] == "Kernel is unresponsive"

        restarted = (await client.call_tool("restart_kernel")).data
        assert restarted["restarted"] is True
        healed = await health(client)
        assert healed["status"] == "healthy"
        assert healed["pid"] not in (None, pid)
        gone = (await client.call_tool("run_python_code", {"code": "x"}, raise_on_error=False)).structured_content
        assert gone["status"] == "error"
        assert gone["error"]["type"] == "NameError"


async def test_the_next_cell_heals_too_and_says_what_was_lost(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")

        async def looked() -> dict[str, Any]:
            return await health(client)

        await eventually(looked, lambda seen: seen["checkpoints"].get("last") == 1, "the copy of a session at rest")
        await kill_worker(client)
        healed = await run(client, "'x' in globals()")
        assert healed["state"] == "restored"
        assert healed["notice"]
        assert "True" in str(healed["results"])
        assert (await health(client))["status"] == "healthy"
        assert (await run(client, "1"))["state"] == "kept"


async def test_zombie_is_seen_then_dead_then_restarted(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        pid = (await health(client))["pid"]
        with stopped_zygote(pid):
            sigkill(pid)
            seen = await until_status(client, "zombie")
            assert seen["pid"] == pid
            assert [seen[key] for key in METRICS] == [None] * 4
            assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
            responsive = (await client.call_tool("check_kernel_responsiveness", {"timeout": 1})).data
            assert responsive["responsive"] is False
        await until_status(client, "dead")
        assert (await client.call_tool("restart_kernel")).data["restarted"] is True
        assert (await health(client))["status"] == "healthy"
        await run(client, "x = 2")


async def test_hung_is_told_from_busy(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")

        busy = start_cell(client, BUSY.format(seconds=30))
        await until_state(client, "busy")
        responsive = (await client.call_tool("check_kernel_responsiveness", {"timeout": 2})).data
        assert responsive["responsive"] is True
        assert responsive["response_time"] < 2
        assert responsive["timeout"] == 2
        assert responsive["test_result"] is not None
        assert (await health(client))["state"] == "busy"
        busy.cancel()
        await until_state(client, "idle")
        await run(client, "assert x == 1")

        hung = start_cell(client, HOLD_THE_GIL.format(seconds=40))
        await until_held(client)
        asked = time.monotonic()
        responsive = (await client.call_tool("check_kernel_responsiveness", {"timeout": 1})).data
        assert responsive["responsive"] is False
        assert isinstance(responsive["response_time"], (int, float))
        assert 0.9 < time.monotonic() - asked < 5
        seen = await until_state(client, "hung")
        assert seen["status"] == "healthy"
        assert seen["memory_usage"] > 0

        assert (await client.call_tool("restart_kernel")).data["restarted"] is True
        cut_short = await asyncio.wait_for(hung, 10)
        assert cut_short.structured_content["status"] not in ("ok", "error")
        assert cut_short.structured_content["state"] == "lost"
        assert (await health(client))["state"] == "idle"
        await run(client, "x = 2")


# -- monitoring workflows


async def test_continuous_monitoring_restarts_what_died(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        lines: list[str] = []
        watch = asyncio.create_task(document.continuous_monitoring(client, 0.3, lines.append))

        async def rounds() -> int:
            return lines.count("round")

        try:
            await eventually(rounds, lambda count: count >= 2, "two quiet rounds")
            assert set(lines) == {"round"}
            sigkill((await health(client))["pid"])

            async def restarts() -> list[str]:
                return lines

            await eventually(restarts, lambda seen: "restart successful" in seen, "the restart", within=30)
            count = await rounds()
            await eventually(rounds, lambda now: now >= count + 2, "two quiet rounds after it", within=30)
        finally:
            watch.cancel()
        assert "unhealthy: dead" in lines
        assert "restart failed" not in lines
        failures = [line for line in lines if line.startswith("check failed")]
        assert all(NULL_ARITHMETIC in line for line in failures), failures
        assert (await health(client))["status"] == "healthy"


async def test_continuous_monitoring_restarts_what_hangs(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        cell = start_cell(client, HOLD_THE_GIL.format(seconds=60))
        await until_held(client)
        lines: list[str] = []
        watch = asyncio.create_task(document.continuous_monitoring(client, 0.3, lines.append))
        try:
            outcome = await asyncio.wait_for(cell, 40)
        finally:
            watch.cancel()
        assert "restarting unresponsive" in lines
        assert outcome.structured_content["status"] not in ("ok", "error")
        await until_state(client, "idle")


async def test_handle_unhealthy_and_unresponsive_kernel(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        lines: list[str] = []
        await document.handle_unhealthy_kernel(client, await health(client), lines.append)
        assert lines == []
        await kill_worker(client)
        await document.handle_unhealthy_kernel(client, await health(client), lines.append)
        assert lines == ["restarting unhealthy", "restart successful"]
        pid = (await health(client))["pid"]
        await document.handle_unresponsive_kernel(client, lines.append)
        assert (await health(client))["pid"] != pid


async def test_monitor_all_sessions(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        for session_id in ("analysis", "training"):
            await client.call_tool("create_session", {"session_id": session_id})
        await client.call_tool("switch_session", {"session_id": "analysis"})
        await run(client, "ballast = bytearray(b'x') * 50_000_000")

        lines: list[str] = []
        report = await document.monitor_all_sessions(client, lines.append)
        assert set(report) == {"default", "analysis", "training"}
        for metrics in report.values():
            assert metrics["status"] == "healthy"
            assert metrics["responsive"] is True
        # Each session was looked at, not one of them three times.
        assert report["analysis"]["memory_mb"] > report["training"]["memory_mb"] + 40
        assert sum(line.startswith("up ") for line in lines) == 3
        assert (await client.call_tool("list_sessions")).data["active_session"] == "analysis"

        await kill_worker(client, session_id="training")
        with pytest.raises(TypeError, match=NULL_ARITHMETIC):
            await document.monitor_all_sessions(client, lines.append)
        await client.call_tool("switch_session", {"session_id": "analysis"})

        report = await document.monitor_all_sessions(client, lines.append, metric=or_zero)
        assert report["training"]["status"] == "dead"
        assert report["training"]["responsive"] is False
        assert report["default"]["status"] == report["analysis"]["status"] == "healthy"
        assert (await client.call_tool("list_sessions")).data["active_session"] == "analysis"


# -- performance optimization


async def test_optimize_memory_usage(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        lines: list[str] = []
        await document.optimize_memory_usage(client, lines.append)
        assert len(lines) == 3
        said = await run(client, document.COLLECT_GARBAGE)
        assert "Garbage collected:" in said["stdout"]
        assert "Memory usage:" in said["stdout"]
        assert said["stderr"] == ""


async def test_monitor_cpu_usage(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        await asyncio.sleep(1.5)
        lines: list[str] = []
        _, idle = await document.monitor_cpu_usage(client, 3, lines.append)
        assert idle < 30
        busy = start_cell(client, BUSY.format(seconds=20))
        await until_state(client, "busy")
        await asyncio.sleep(1)
        _, peak = await document.monitor_cpu_usage(client, 3, lines.append)
        busy.cancel()
        assert 30 < peak < 250
        assert len([line for line in lines if line.startswith("CPU Usage")]) == 6


# -- alerting


async def test_health_alert(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:

        async def kinds(metric: document.Metric = document.as_written) -> set[str]:
            """What a fresh look finds; the processor may be warm from the cell before."""
            found = await document.HealthAlert(client, metric=metric).check_alerts()
            return {alert.partition(":")[0] for alert in found} - {"High CPU usage"}

        await run(client, "x = 1")
        assert await kinds() == set()

        await run(client, "ballast = bytearray(b'x') * 600_000_000")
        assert await kinds() == {"High memory usage"}
        lines: list[str] = []
        alerts = document.HealthAlert(client, lines.append)
        assert await alerts.check_alerts()
        await alerts.send_alerts()
        assert alerts.alerts == []
        assert any(line.startswith("alert: High memory usage: ") for line in lines)
        await run(client, "del ballast")

        busy = start_cell(client, BUSY.format(seconds=30))
        await until_state(client, "busy")
        await asyncio.sleep(2)
        assert [alert.partition(":")[0] for alert in await alerts.check_alerts()] in (["High CPU usage"], [])
        busy.cancel()
        await until_state(client, "idle")

        cell = start_cell(client, HOLD_THE_GIL.format(seconds=60))
        await until_held(client)
        assert await kinds() == {"Slow response"}
        await client.call_tool("restart_kernel")
        await asyncio.wait_for(cell, 10)

        await kill_worker(client)
        with pytest.raises(TypeError, match=NULL_ARITHMETIC):
            await kinds()
        assert await kinds(or_zero) == {"Slow response", "Unhealthy kernel"}


# -- recovery strategies


async def test_smart_recovery(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        lines: list[str] = []
        assert await document.smart_recovery(client, lines.append) == "healthy"

        await kill_worker(client)
        assert await document.smart_recovery(client, lines.append) == "restarted"
        assert await document.smart_recovery(client, lines.append) == "healthy"

        cell = start_cell(client, HOLD_THE_GIL.format(seconds=60))
        await until_held(client)
        assert await document.smart_recovery(client, lines.append) == "responsiveness_restart"
        await asyncio.wait_for(cell, 10)
        assert await document.smart_recovery(client, lines.append) == "healthy"


async def test_smart_recovery_of_a_zombie(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        pid = (await health(client))["pid"]
        with stopped_zygote(pid) as zygote:
            sigkill(pid)
            await until_status(client, "zombie")
            # The restart is asked for while the zygote still sleeps; it wakes up after a second.
            recovery = asyncio.create_task(document.smart_recovery(client))
            await asyncio.sleep(1)
            zygote.resume()
            assert await asyncio.wait_for(recovery, 30) == "force_restarted"
        assert (await health(client))["status"] == "healthy"
        await run(client, "x = 2")


async def test_smart_recovery_frees_memory(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        # The supervisor would do what the document has its client do, and first.
        await client.call_tool("configure_health", {"memory_cleanup": 0})
        await run(client, CYCLIC_GIGABYTE)
        assert (await health(client))["memory_usage"] > 1000 * document.MEBIBYTE
        assert await document.smart_recovery(client) == "memory_cleanup"
        assert (await health(client))["memory_usage"] < 1000 * document.MEBIBYTE
        assert await document.smart_recovery(client) == "healthy"


async def test_progressive_recovery(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        await run(client, "x = 1")
        lines: list[str] = []
        assert await document.progressive_recovery(client, say=lines.append) is True
        assert lines == ["healthy"]

        await kill_worker(client)
        with pytest.raises(TypeError, match=NULL_ARITHMETIC):
            await document.progressive_recovery(client, say=lines.append)
        # The document's first attempt runs a cell, and a cell brings a fresh worker.
        assert await document.progressive_recovery(client, say=lines.append, metric=or_zero) is True
        assert (await health(client))["status"] == "healthy"


async def test_progressive_recovery_escalates(forkpy: Forkpy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is killed again in each of the document's pauses, until the session has been recreated."""
    async with forkpy.client() as client:
        await client.call_tool("create_session", {"session_id": "fragile"})
        await client.call_tool("switch_session", {"session_id": "fragile"})
        await run(client, "x = 1")
        pauses: list[float] = []

        async def pause_and_kill(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) < 3:
                await kill_worker(client, session_id="fragile")

        await kill_worker(client, session_id="fragile")
        with monkeypatch.context() as patch:
            patch.setattr(document, "asyncio", SimpleNamespace(sleep=pause_and_kill))
            recovered = await document.progressive_recovery(client, max_attempts=4, metric=or_zero)
        # Deleting the active session made another one active, so the last look is at that one, as the document has it.
        assert recovered is True
        assert pauses == [5, 5, 5]
        sessions = (await client.call_tool("list_sessions")).data["sessions"]
        assert set(sessions) == {"default", "fragile"}
        await run(client, "assert 'x' not in globals()", session_id="fragile")
        assert (await health(client, session_id="fragile"))["status"] == "healthy"
