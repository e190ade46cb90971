"""Preloaded libraries are as quick in a session as in plain Python, and those that cannot be preloaded are left out.

Sessions run in the environment of libraries.txt (FORKPY_TEST_VENV, which prepare.py makes).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import fastmcp
from fastmcp.client.transports import StdioTransport

from support import binary, passed_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support import Forkpy

# What a session is compared by: each pool of threads, and the variables that set their sizes.
LOOK = """
import json, os
import numpy, scipy.linalg, sklearn.cluster, pandas, pyarrow, numexpr, threadpoolctl
pools = sorted((pool["filepath"], pool["num_threads"]) for pool in threadpoolctl.threadpool_info())
variables = {name: value for name, value in os.environ.items() if "THREADS" in name}
print(json.dumps([pools, numexpr.nthreads, pyarrow.cpu_count(), pyarrow.io_thread_count(), variables]))
"""

STACK = "numpy,scipy.linalg,sklearn.cluster,pandas,pyarrow,numexpr"


@contextlib.asynccontextmanager
async def preloaded(forkpy: Forkpy, modules: str) -> AsyncIterator[fastmcp.Client]:
    arguments = [*forkpy.arguments("stdio"), "--preload", modules]
    transport = StdioTransport(binary(), arguments, env=passed_on(), keep_alive=False, log_file=forkpy.log)
    async with fastmcp.Client(transport) as client:
        yield client


async def run(client: fastmcp.Client, code: str) -> dict[str, Any]:
    result = await client.call_tool("run_python_code", {"code": code, "timeout": 100})
    assert result.data["status"] == "ok", result.content[0].text
    return result.data


async def test_a_session_has_the_threads_that_plain_python_has(forkpy_stdio: Forkpy) -> None:
    python = os.environ["FORKPY_TEST_VENV"] + "/bin/python"
    plain = subprocess.run([python, "-c", LOOK], capture_output=True, text=True, check=True)
    pools = json.loads(plain.stdout)[0]
    assert {"openblas", "gomp"} <= {name for name in ("openblas", "gomp") for path, _ in pools if name in path}, pools
    async with preloaded(forkpy_stdio, STACK) as client:
        loaded = await run(client, "import sys; 'pyarrow' in sys.modules and 'numexpr' in sys.modules")
        assert loaded["results"] == ["True"]
        assert json.loads((await run(client, LOOK))["stdout"]) == json.loads(plain.stdout)


async def test_the_data_stack_works_in_a_fork(forkpy_stdio: Forkpy) -> None:
    work = """
values = np.random.rand(1_000_000)
assert np.allclose(numexpr.evaluate("values * 2 + 1"), values * 2 + 1)
frame = pd.DataFrame({"a": np.arange(100_000), "b": np.random.rand(100_000), "s": ["x"] * 100_000})
frame.to_parquet("f.parquet")
assert pd.read_parquet("f.parquet").equals(frame) and frame.eval("a * b").sum() > 0
frame.to_csv("f.csv")
assert csv.read_csv("f.csv").num_rows == 100_000
square = np.random.rand(300, 300)
assert np.linalg.norm(square @ square) > 0
KMeans(3, n_init=2).fit(np.random.rand(5000, 4))
"""
    async with preloaded(forkpy_stdio, STACK) as client:
        await run(
            client,
            "import numexpr, numpy as np, pandas as pd\nfrom pyarrow import csv\nfrom sklearn.cluster import KMeans",
        )
        await run(client, work)


async def test_what_cannot_be_preloaded_is_imported_by_the_session(forkpy_stdio: Forkpy) -> None:
    async with preloaded(forkpy_stdio, "numpy,polars") as client:
        loaded = await run(client, "import sys; 'numpy' in sys.modules, 'polars' in sys.modules")
        assert loaded["results"] == ["(True, False)"]
        total = "import polars as pl\npl.DataFrame({'a': range(1000)}).select(pl.col('a').sum()).item()"
        used = await run(client, total)
        assert used["results"] == ["499500"]
    assert 'module="polars"' in forkpy_stdio.log.read_text()
