"""The ordinary work of a data session in the sandbox, with real libraries, and the network through the server's proxy.

Sessions run in the environment of libraries.txt (FORKPY_TEST_VENV, which prepare.py makes).
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
import zipfile
from typing import TYPE_CHECKING, Any

from support import Forkpy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastmcp import Client

# Each is a cell, in one session, with what it shows.
ARRAYS = [
    ("import numpy as np\nfloat(np.linalg.norm(np.eye(300) @ np.eye(300)) ** 2)", "300."),
    ("from scipy import optimize\nround(optimize.brentq(lambda x: x * x - 2, 0, 2), 3)", "1.414"),
    ("import pandas as pd\nframe = pd.DataFrame({'a': [1, 2, 3], 'b': list('xyz')})\nint(frame.a.sum())", "6"),
    ("frame.to_csv('t.csv', index=False)\nlen(pd.read_csv('t.csv'))", "3"),
    ("frame.to_parquet('t.parquet')\nlen(pd.read_parquet('t.parquet'))", "3"),
    ("import polars\npolars.DataFrame({'a': [1, 2]}).select(polars.col('a').sum()).item()", "3"),
    ("import numexpr\nint(numexpr.evaluate('x + 1', {'x': np.arange(3)}).sum())", "6"),
    ("from PIL import Image\nImage.new('RGB', (4, 4)).save('p.png')\nImage.open('p.png').size", "(4, 4)"),
    ("import sympy\nstr(sympy.integrate(sympy.Symbol('x')))", "x**2/2"),
    ("import ctypes\nctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 1)(1)", "2"),
]
# What needs other processes, and names that processes share.
TOGETHER = [
    (
        "import sqlite3\nwith sqlite3.connect('t.db') as base: frame.to_sql('t', base, index=False)\n"
        "pd.read_sql('select sum(a) as s from t', sqlite3.connect('t.db')).s[0].item()",
        "6",
    ),
    (
        "from sklearn.ensemble import RandomForestClassifier as Forest\nrows = np.random.rand(60, 3)\n"
        "Forest(8, n_jobs=2).fit(rows, rows[:, 0] > 0.5).predict(rows).shape",
        "(60,)",
    ),
    ("import joblib\nsum(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-n) for n in range(4)))", "6"),
    ("joblib.Memory('cache', verbose=0).cache(len)('abc')", "3"),
    (
        "from concurrent.futures import ProcessPoolExecutor\ndef double(x): return 2 * x\n"
        "with ProcessPoolExecutor(2) as pool: found = list(pool.map(double, range(3)))\nfound",
        "[0, 2, 4]",
    ),
    (
        "import subprocess, sys\ncode = 'import pandas; print(len(pandas.Series([1])))'\n"
        "subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout",
        "1",
    ),
    ("import tempfile, os\nwith tempfile.TemporaryDirectory() as place: open(place + '/x', 'w').close()\n7", "7"),
]
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.title('Größe π ∑ 名')\nplt.show()"


async def look(client: Client, code: str, **more: str) -> Any:
    result = await client.call_tool("run_python_code", {"code": code, "timeout": 100, **more})
    assert result.data["status"] == "ok", f"{code}\n{result.content[0].text}"
    return result


async def work_in(client: Client, cells: list[tuple[str, str]], **more: str) -> None:
    for code, expected in cells:
        result = await look(client, code, **more)
        assert expected in result.data["results"][0], f"{code}\n{result.content[0].text}"


async def test_a_data_session_works_in_the_sandbox_as_without(tmp_path: Path) -> None:
    with Forkpy("stdio", tmp_path, "--sandbox", "workspace") as forkpy:
        async with forkpy.client() as client:
            await work_in(client, ARRAYS + TOGETHER)
            for _ in range(2):
                # Its cache of fonts is made by the first.
                shown = await look(client, FIGURE)
                assert any(block.type == "image" for block in shown.content), shown.content
            await look(client, "import IPython\nIPython.version_info")


async def test_arrays_tables_and_figures_work_in_the_strictest_sandbox(tmp_path: Path) -> None:
    with Forkpy("stdio", tmp_path, "--sandbox", "strict") as forkpy:
        async with forkpy.client() as client:
            await work_in(client, ARRAYS)
            shown = await look(client, FIGURE)
            assert any(block.type == "image" for block in shown.content), shown.content
            health = await client.call_tool("get_kernel_health", {})
            layers = health.data["limits"]["sandbox_layers"]
            # Where the kernel has it, the libraries above bear it.
            kept = "no code from written memory" in layers
            written = (
                "import ctypes, mmap\ntry:\n    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
                "    kept = False\nexcept PermissionError:\n    kept = True\nkept"
            )
            assert (await look(client, written)).data["results"] == [str(kept)], layers


class Index(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextlib.contextmanager
def index(place: Path) -> Iterator[int]:
    """An index with one package, on this machine, outside of any sandbox."""
    folder = place / "simple" / "tiny-thing"
    folder.mkdir(parents=True)
    name, info = "tiny_thing-1.0-py3-none-any.whl", "tiny_thing-1.0.dist-info/"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("tiny_thing.py", "answer = 42")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        wheel.writestr(
            info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(info + "RECORD", "")
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body><a href={name!r}>{name}</a></body></html>")
    handler = functools.partial(Index, directory=str(place))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ASKING = [
    "import urllib.request\nlen(urllib.request.urlopen(URL, timeout=60).read()) > 0",
    "import requests\nrequests.get(URL, timeout=60).status_code == 200",
    "import urllib3\nurllib3.ProxyManager(os.environ['HTTP_PROXY']).request('GET', URL, timeout=60.0).status == 200",
    "import httpx\nhttpx.get(URL, timeout=60).status_code == 200",
    "async def get():\n    async with httpx.AsyncClient(timeout=60) as client: return await client.get(URL)\n"
    "(await get()).status_code == 200",
]
INSTALLING = {
    "pip": "['-m', 'pip', '--isolated', 'install', '--no-input', '--disable-pip-version-check', '--retries=0']",
    "uv": "['-m', 'uv', 'pip', 'install', '--no-config', '--python', sys.executable, '--cache-dir', 'cache-of-uv']",
}


async def test_clients_and_installers_go_through_the_proxy(tmp_path: Path) -> None:
    place = tmp_path / "index"
    with index(place) as port:
        allowed = ("--sandbox", "workspace", "--allow-net", f"127.0.0.1:{port}")
        with Forkpy("stdio", tmp_path, *allowed) as forkpy:
            async with forkpy.client() as client:
                await look(client, f"import os, sys, subprocess\nURL = 'http://127.0.0.1:{port}/simple/'")
                for code in ASKING:
                    assert (await look(client, code)).data["results"] == ["True"], code
                for tool, command in INSTALLING.items():
                    done = await look(
                        client,
                        f"done = subprocess.run([sys.executable, *{command}, '--target', '{tool}', '--index-url', URL, "
                        "'tiny-thing'], capture_output=True, text=True)\n"
                        f"done.returncode, done.stderr, os.path.exists('{tool}/tiny_thing.py')",
                    )
                    found = done.data["results"][0]
                    assert found.startswith("(0,") and found.endswith("True)"), f"{tool}: {found}"
                # The same without the proxy, or to what is not listed, is refused.
                refused = await look(
                    client,
                    "found = []\nfor options in ({'trust_env': False}, {}):\n"
                    "    url = URL if options else 'http://127.0.0.1:9/'\n"
                    "    try:\n        found.append(httpx.get(url, **options).status_code)\n"
                    "    except httpx.TransportError as error: found.append(type(error).__name__)\nfound",
                )
                assert refused.data["results"] == ["['ConnectError', 403]"], refused.data
