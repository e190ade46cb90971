"""Checkpoints, branches and saved sessions with real libraries, by FastMCP: the guide's example among them.

Sessions run in the environment of libraries.txt (FORKPY_TEST_VENV, which prepare.py makes).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmcp import Client

    from support import Forkpy


async def run(client: Client, code: str, **more: Any) -> dict[str, Any]:
    result = await client.call_tool("run_python_code", {"code": code, "timeout": 100, **more}, raise_on_error=False)
    return result.structured_content


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    return (await client.call_tool(tool, arguments)).structured_content


async def value(client: Client, code: str, **more: Any) -> str:
    reply = await run(client, code, **more)
    assert reply["status"] == "ok", reply
    return reply["results"][-1]


async def test_numpy_pandas_and_matplotlib_survive_a_fork(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        # A product large enough for OpenBLAS to start its threads, which are no obstacle.
        await run(
            client,
            "import numpy as np, pandas as pd, matplotlib.pyplot as plt\n"
            "a = np.random.default_rng(1).random((600, 600)); total = float((a @ a).sum())\n"
            "df = pd.DataFrame({'k': ['a', 'b'] * 50, 'v': range(100)})\n"
            "fig, ax = plt.subplots(); ax.plot([1, 3, 2]); plt.close(fig)",
        )
        made = await call(client, "checkpoint_session", name="start")
        assert "warnings" not in made, made
        await run(client, "a[:] = 0; df.drop(columns='v', inplace=True); ax.clear()")
        for _ in range(2):
            await call(client, "restore_checkpoint", name="start")
            assert await value(client, "abs(float((a @ a).sum()) - total) < 1e-6") == "True"
            assert await value(client, "df.groupby('k').v.sum().tolist()") == "[2450, 2500]"
            shown = await client.call_tool("run_python_code", {"code": "fig"})
            assert [block.type for block in shown.content].count("image") == 1
            await run(client, "a[:] = 0; df.drop(columns='v', inplace=True)")


async def test_copies_draw_their_own_numbers(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        await run(client, "import numpy as np\nnp.random.seed(3)")
        await call(client, "checkpoint_session", name="seeded")
        first = await value(client, "np.random.random()")
        await call(client, "restore_checkpoint", name="seeded", keep_random=True)
        assert await value(client, "np.random.random()") == first
        await call(client, "restore_checkpoint", name="seeded")
        assert await value(client, "np.random.random()") != first
        branches = await call(client, "run_branches", codes=["np.random.random()"] * 3)
        drawn = {branch["outcome"]["results"][0] for branch in branches["branches"]}
        assert len(drawn) == 3, drawn


async def test_a_pool_of_native_threads_is_named_by_its_library(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        await run(client, "import polars as pl\npl.DataFrame({'x': range(1000)}).lazy().sum().collect()")
        refused = await client.call_tool("checkpoint_session", {}, raise_on_error=False)
        assert refused.is_error and "polars" in refused.content[0].text, refused


async def test_the_best_of_three_models_is_kept_and_survives_a_segfault(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        await call(client, "configure_health", checkpoints="last")
        await run(
            client,
            "import numpy as np\n"
            "from sklearn.linear_model import LogisticRegression\n"
            "from sklearn.naive_bayes import GaussianNB\n"
            "from sklearn.tree import DecisionTreeClassifier\n"
            "rng = np.random.default_rng(0)\n"
            "X = rng.normal(size=(400, 5)); y = (X[:, 0] + 0.3 * rng.normal(size=400) > 0).astype(int)",
        )
        made = ["LogisticRegression()", "DecisionTreeClassifier(max_depth=1)", "GaussianNB()"]
        codes = [f"model = {one}.fit(X[:300], y[:300]); model.score(X[300:], y[300:])" for one in made]
        tried = await call(client, "run_branches", codes=codes, keep="max")
        scores = [float(branch["outcome"]["results"][0].rpartition("(")[2].rstrip(")")) for branch in tried["branches"]]
        assert scores[tried["kept"]] == max(scores), tried
        best = made[tried["kept"]].partition("(")[0]
        assert await value(client, "type(model).__name__") == f"'{best}'"
        crashed = await run(client, "import ctypes; ctypes.string_at(0)")
        assert (crashed["status"], crashed["state"]) == ("died", "restored"), crashed
        assert crashed["death"]["signal"] == "SIGSEGV" and crashed["death"]["report"]
        assert await value(client, f"model.score(X[300:], y[300:]) == {max(scores)!r}") in ("True", "np.True_")


async def test_functions_classes_and_models_of_cells_are_saved_by_value(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        await run(
            client,
            "import numpy as np, pandas as pd\n"
            "from sklearn.tree import DecisionTreeClassifier\n"
            "class Point:\n"
            "    def __init__(self, x): self.x = x\n"
            "    def __eq__(self, other): return isinstance(other, Point) and self.x == other.x\n"
            "factor = 3\n"
            "def scaled(x): return x * factor\n"
            "def counter(n=0):\n"
            "    def up():\n"
            "        nonlocal n\n"
            "        n += 1\n"
            "        return n\n"
            "    return up\n"
            "up = counter(); up(); p = Point(2); q = p; square = lambda x: x * x\n"
            "df = pd.DataFrame({'v': [1, 2]}); a = np.arange(5)\n"
            "model = DecisionTreeClassifier().fit([[0], [1]], [0, 1])",
        )
        saved = await call(client, "save_session", path="all.forkpy")
        assert "skipped" not in saved, saved
        await call(client, "restart_kernel")
        loaded = await call(client, "load_session", path="all.forkpy")
        assert "skipped" not in loaded and "Point" in loaded["loaded"], loaded
        checks = "p is q, p == Point(2), type(p) is Point, square(4), up(), int(a.sum()), int(df.v.sum())"
        assert await value(client, checks) == "(True, True, True, 16, 2, 10, 3)"
        assert await value(client, "int(model.predict([[1]])[0])") == "1"
        # A function has the session for its globals, as before.
        assert await value(client, "factor = 5; scaled(2)") == "10"
        again = await call(client, "restart_kernel", preserve_state=True)
        assert "scaled" in again["restored_vars"] and "lost_vars" not in again, again
        assert await value(client, "factor = 7; scaled(2)") == "14"


async def test_a_crash_in_a_session_that_cannot_be_copied_costs_what_does_not_pickle(forkpy_stdio: Forkpy) -> None:
    async def held() -> dict[str, Any]:
        return (await call(client, "get_kernel_health"))["checkpoints"]

    async with forkpy_stdio.client() as client:
        code = (
            "import polars as pl, numpy as np, threading\n"
            "df = pl.DataFrame({'n': range(1000)})\nlarge = np.arange(500_000)\nlock = threading.Lock()\n"
            "def double(n):\n    return 2 * n\n"
            "df['n'].sum()"
        )
        assert await value(client, code) == "499500"
        deadline = time.monotonic() + 60
        while not (kept := await held())["by_value"]:
            assert time.monotonic() < deadline, kept
            await asyncio.sleep(0.05)
        assert (kept["can"], kept["by_value_cell"]) == (False, 1)
        assert "polars" in kept["why"]
        assert list(kept["left_out"]) == ["lock"]
        died = await run(client, "import os; os.abort()")
        assert (died["status"], died["state"], died["recovered_from"]) == ("died", "restored", 1), died
        assert "by value, pl, np, threading, df, large, double;" in died["notice"]
        assert "not there are lock" in died["notice"]
        code = "df['n'].sum(), int(large.sum()), double(3), 'lock' in globals()"
        assert await value(client, code) == "(499500, 124999750000, 6, False)"
