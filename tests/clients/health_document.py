"""The workflows of the health monitoring document, as its readers have them in their programs.

Each function makes the calls of the function of the same name there, in its order, and reads the replies by the same
expressions, format specifications included; what it would print goes to `say`.

The document reads a metric as `health.data.get('memory_usage', 0)` and divides it, while it also says that a dead or
zombie kernel has the key with null in it. Its arithmetic then meets its own null and raises TypeError, whatever the
server does. `as_written` is that reading; `or_zero` is the one of readers who noticed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastmcp import Client

    Say = Callable[[str], None]
    Metric = Callable[[dict[str, Any], str], Any]

MEBIBYTE = 1024**2

COLLECT_GARBAGE = """
import gc
import sys

# Force garbage collection
collected = gc.collect()
print(f"Garbage collected: {collected} objects")

# What the operating system says
import psutil
import os
process = psutil.Process(os.getpid())
print(f"Memory usage: {process.memory_info().rss / (1024**2):.1f} MB")
"""


def as_written(data: dict[str, Any], key: str) -> Any:
    return data.get(key, 0)


def or_zero(data: dict[str, Any], key: str) -> Any:
    return data.get(key, 0) or 0


# Health metrics


async def show_metrics(client: Client, say: Say = print) -> None:
    health = await client.call_tool("get_kernel_health")

    say(f"Status: {health.data['status']}")
    say(f"PID: {health.data['pid']}")
    say(f"Memory: {health.data['memory_usage']} bytes")
    say(f"CPU: {health.data['cpu_percent']}%")
    say(f"Threads: {health.data['num_threads']}")
    say(f"Uptime: {health.data['uptime']} seconds")


async def show_responsiveness(client: Client, say: Say = print) -> None:
    responsive = await client.call_tool("check_kernel_responsiveness")

    if responsive.data["responsive"]:
        say(f"Kernel responded in {responsive.data['response_time']:.3f}s")
    else:
        say("Kernel is unresponsive")


# Monitoring workflows


async def continuous_monitoring(client: Client, interval: float = 30, say: Say = print) -> None:
    while True:
        try:
            health = await client.call_tool("get_kernel_health")
            responsive = await client.call_tool("check_kernel_responsiveness")

            if health.data["status"] != "healthy":
                say(f"unhealthy: {health.data['status']}")
                await handle_unhealthy_kernel(client, health.data, say)

            if not responsive.data["responsive"]:
                say(f"unresponsive (>{responsive.data['response_time']}s)")
                await handle_unresponsive_kernel(client, say)

            memory_mb = health.data.get("memory_usage", 0) / MEBIBYTE
            if memory_mb > 1000:
                say(f"high memory: {memory_mb:.1f}MB")
            say("round")

        except Exception as e:
            say(f"check failed: {e}")

        await asyncio.sleep(interval)


async def handle_unhealthy_kernel(client: Client, health_data: dict[str, Any], say: Say = print) -> None:
    if health_data["status"] in ["dead", "zombie"]:
        say("restarting unhealthy")
        await client.call_tool("restart_kernel")

        await asyncio.sleep(2)
        new_health = await client.call_tool("get_kernel_health")
        if new_health.data["status"] == "healthy":
            say("restart successful")
        else:
            say("restart failed")


async def handle_unresponsive_kernel(client: Client, say: Say = print) -> None:
    say("restarting unresponsive")
    await client.call_tool("restart_kernel")


async def monitor_all_sessions(
    client: Client, say: Say = print, metric: Metric = as_written
) -> dict[str, dict[str, Any]]:
    sessions = await client.call_tool("list_sessions")
    current_session = sessions.data["active_session"]

    health_report = {}

    for session_id in sessions.data["sessions"].keys():  # noqa: SIM118, the document's own way of reading it
        await client.call_tool("switch_session", {"session_id": session_id})

        health = await client.call_tool("get_kernel_health")
        responsive = await client.call_tool("check_kernel_responsiveness")

        health_report[session_id] = {
            "status": health.data["status"],
            "responsive": responsive.data["responsive"],
            "memory_mb": metric(health.data, "memory_usage") / MEBIBYTE,
            "cpu_percent": metric(health.data, "cpu_percent"),
            "uptime_hours": metric(health.data, "uptime") / 3600,
        }

    await client.call_tool("switch_session", {"session_id": current_session})

    for session_id, metrics in health_report.items():
        say(f"{'up' if metrics['status'] == 'healthy' else 'down'} {session_id}")
        say(f"   Status: {metrics['status']}")
        say(f"   Responsive: {'yes' if metrics['responsive'] else 'no'}")
        say(f"   Memory: {metrics['memory_mb']:.1f} MB")
        say(f"   CPU: {metrics['cpu_percent']:.1f}%")
        say(f"   Uptime: {metrics['uptime_hours']:.1f} hours")

    return health_report


# Performance optimization


async def optimize_memory_usage(client: Client, say: Say = print, metric: Metric = as_written) -> None:
    health = await client.call_tool("get_kernel_health")
    initial_memory = metric(health.data, "memory_usage")

    say(f"Initial memory usage: {initial_memory / MEBIBYTE:.1f} MB")

    await client.call_tool("run_python_code", {"code": COLLECT_GARBAGE})

    health = await client.call_tool("get_kernel_health")
    final_memory = metric(health.data, "memory_usage")

    saved_mb = (initial_memory - final_memory) / MEBIBYTE
    say(f"Final memory usage: {final_memory / MEBIBYTE:.1f} MB")
    say(f"Memory saved: {saved_mb:.1f} MB")


async def monitor_cpu_usage(client: Client, duration: int = 60, say: Say = print) -> tuple[float, float]:
    samples = []

    for _ in range(duration):
        health = await client.call_tool("get_kernel_health")
        cpu_percent = health.data.get("cpu_percent", 0)
        samples.append(cpu_percent)

        say(f"CPU Usage: {cpu_percent:.1f}%")
        await asyncio.sleep(1)

    avg_cpu = sum(samples) / len(samples)
    max_cpu = max(samples)

    say(f"Average CPU: {avg_cpu:.1f}%")
    say(f"Peak CPU: {max_cpu:.1f}%")

    if avg_cpu > 50:
        say("high average CPU")
    if max_cpu > 90:
        say("CPU spikes")
    return avg_cpu, max_cpu  # the document's function returns nothing; its test wants to know


# Alerting


class HealthAlert:
    def __init__(self, client: Client, say: Say = print, metric: Metric = as_written) -> None:
        self.client = client
        self.alerts: list[str] = []
        self.say = say
        self.metric = metric

    async def check_alerts(self) -> list[str]:
        health = await self.client.call_tool("get_kernel_health")
        responsive = await self.client.call_tool("check_kernel_responsiveness")

        memory_mb = self.metric(health.data, "memory_usage") / MEBIBYTE
        if memory_mb > 500:
            self.alerts.append(f"High memory usage: {memory_mb:.1f}MB")

        cpu_percent = self.metric(health.data, "cpu_percent")
        if cpu_percent > 80:
            self.alerts.append(f"High CPU usage: {cpu_percent:.1f}%")

        if not responsive.data["responsive"]:
            response_time = responsive.data["response_time"]
            self.alerts.append(f"Slow response: {response_time:.2f}s")

        if health.data["status"] != "healthy":
            self.alerts.append(f"Unhealthy kernel: {health.data['status']}")

        return self.alerts

    async def send_alerts(self) -> None:
        if self.alerts:
            for alert in self.alerts:
                self.say(f"alert: {alert}")

            self.alerts.clear()


# Recovery


async def smart_recovery(client: Client, say: Say = print) -> str:
    health = await client.call_tool("get_kernel_health")
    responsive = await client.call_tool("check_kernel_responsiveness")

    if health.data["status"] == "dead":
        say("dead, restarting")
        await client.call_tool("restart_kernel")
        return "restarted"

    if health.data["status"] == "zombie":
        say("zombie, restarting")
        await client.call_tool("restart_kernel")
        return "force_restarted"

    if not responsive.data["responsive"]:
        say("unresponsive, restarting")
        await client.call_tool("restart_kernel")
        return "responsiveness_restart"

    memory_mb = health.data.get("memory_usage", 0) / MEBIBYTE
    if memory_mb > 1000:
        say("high memory, cleaning up")
        await optimize_memory_usage(client, say)
        return "memory_cleanup"

    return "healthy"


async def progressive_recovery(
    client: Client, max_attempts: int = 3, say: Say = print, metric: Metric = as_written
) -> bool:
    for attempt in range(max_attempts):
        health = await client.call_tool("get_kernel_health")

        if health.data["status"] == "healthy":
            say("healthy")
            return True

        say(f"attempt {attempt + 1}/{max_attempts}")

        if attempt == 0:
            await optimize_memory_usage(client, say, metric)

        elif attempt == 1:
            await client.call_tool("restart_kernel")

        else:
            sessions = await client.call_tool("list_sessions")
            current_session = sessions.data["active_session"]

            if current_session != "default":
                await client.call_tool("delete_session", {"session_id": current_session})
                await client.call_tool("create_session", {"session_id": current_session})

        await asyncio.sleep(5)

    say("recovery failed")
    return False
