"""Runs `async def` tests, each with a deadline, and starts a forkpy per test over each transport."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

import pytest

from support import Forkpy, binary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE = 120.0


def pytest_sessionstart() -> None:
    try:
        binary()
    except AssertionError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def with_deadline() -> None:
        await asyncio.wait_for(pyfuncitem.obj(**arguments), DEADLINE)

    asyncio.run(with_deadline())
    return True


@pytest.fixture(params=["stdio", "http"])
def forkpy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Forkpy]:
    with Forkpy(request.param, tmp_path) as server:
        yield server


@pytest.fixture
def forkpy_http(tmp_path: Path) -> Iterator[Forkpy]:
    with Forkpy("http", tmp_path) as server:
        yield server


@pytest.fixture
def forkpy_stdio(tmp_path: Path) -> Iterator[Forkpy]:
    with Forkpy("stdio", tmp_path) as server:
        yield server
