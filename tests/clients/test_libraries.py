"""Real libraries in a session, through FastMCP's client: what a user would see of them.

Sessions run in the environment of libraries.txt (FORKPY_TEST_VENV, which prepare.py makes).
"""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fastmcp import Client

    from support import Forkpy


class Seen:
    """What one cell's reply shows."""

    def __init__(self, result: Any) -> None:
        self.data = result.data
        self.text = result.content[0].text
        self.images = [block for block in result.content if block.type == "image"]
        self.links = [block for block in result.content if block.type == "resource_link"]

    @property
    def results(self) -> list[str]:
        return self.data["results"]

    def image_size(self, number: int = 0) -> tuple[int, int]:
        raw = base64.b64decode(self.images[number].data)
        assert raw.startswith(b"\x89PNG\r\n\x1a\n"), raw[:16]
        width, height = struct.unpack(">II", raw[16:24])
        return width, height


async def look(client: Client, code: str, status: str = "ok") -> Seen:
    result = await client.call_tool("run_python_code", {"code": code, "timeout": 100})
    seen = Seen(result)
    assert seen.data["status"] == status, seen.text
    return seen


async def test_matplotlib_figures_are_images(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        shown = await look(client, "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.title('T')\nplt.show()")
        width, height = shown.image_size()
        assert 400 < width < 800 and 300 < height < 600
        original = forkpy_stdio.workspace / shown.data["outputs"][0]
        assert original.read_bytes() == base64.b64decode(shown.images[0].data)
        assert not shown.links, "what is shown inline is not linked"
        # Shown at the end of the cell without being asked for, both of them, and closed.
        shown = await look(client, "for n in range(2):\n    plt.figure()\n    plt.bar([1, 2], [n, 3])")
        assert len(shown.images) == 2
        assert (await look(client, "plt.get_fignums()")).results == ["[]"]
        # A figure as the last value is shown once; a large one is scaled down, its file is not.
        shown = await look(client, "fig, ax = plt.subplots(figsize=(30, 10), dpi=100)\nax.plot([1, 2])\nfig")
        assert len(shown.images) == 1 and max(shown.image_size()) <= 1568
        wide = (forkpy_stdio.workspace / shown.data["outputs"][0]).read_bytes()
        assert struct.unpack(">I", wide[16:20])[0] > 2000
        # A figure drawn before an exception is shown too.
        shown = await look(client, "plt.plot([1])\n1 / 0", "error")
        assert len(shown.images) == 1
        # Seaborn's and pandas' way: an axes as the last value.
        shown = await look(client, "import pandas as pd\npd.Series([1, 2]).plot();")
        assert len(shown.images) == 1 and "<Figure size" in shown.results[0] and len(shown.results) == 1


async def test_a_preloaded_matplotlib_needs_no_display_either(forkpy_stdio: Forkpy) -> None:
    arguments = forkpy_stdio.arguments
    forkpy_stdio.arguments = lambda transport, *more: arguments(
        transport, "--preload", "matplotlib.pyplot,pandas", *more
    )
    async with forkpy_stdio.client() as client:
        shown = await look(client, "import matplotlib.pyplot as plt\nplt.scatter([1], [2])\nplt.show()")
        assert len(shown.images) == 1 and shown.data["stderr"] == ""


async def test_tables_are_text_with_html_beside(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        shown = await look(
            client,
            "import pandas as pd\ndf = pd.DataFrame({f'column_{n}': range(3) for n in range(15)})\n"
            "df['column_14'] = [1.5, None, 2]\ndf",
        )
        head = shown.results[0].split("\n")[0].split()
        assert head == [f"column_{n}" for n in range(15)], "the table is broken into pieces"
        assert shown.data["outputs"] == [], "a table makes no file that was not asked for"
        shown = await look(client, "df.style.format(precision=1)")
        assert "column_0 | column_1" in shown.results[0] and "1.5" in shown.results[0]
        shown = await look(client, "display(df.head(1)); df.describe()")
        assert len(shown.results) == 2 and "mean" in shown.results[1]
        shown = await look(client, "import polars as pl\npl.DataFrame({'a': [1, 2], 'b': ['x', 'y']})")
        assert "shape: (2, 2)" in shown.results[0] and shown.data["outputs"] == []


async def test_plotly_and_altair_are_pages(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        for code in ("fig", "fig.show()", "display(fig)"):
            shown = await look(
                client, f"import plotly.express as px\nfig = px.bar(x=['a', 'b'], y=[1, 2], title='Bars')\n{code}"
            )
            assert shown.results == ["<plotly figure 'Bars' with 1 trace: bar>"]
            files = shown.data["displays"][0]["files"]
            page = (forkpy_stdio.workspace / files["text/html"]).read_text()
            assert "<html" in page and "Bars" in page
            assert "application/vnd.plotly.v1+json" in files
        shown = await look(
            client,
            "import altair as alt, pandas as pd\n"
            "alt.Chart(pd.DataFrame({'x': [1], 'y': [2]})).mark_point().encode(x='x', y='y')",
        )
        assert shown.results == ["<altair.Chart of point x=x y=y>"]
        page = (forkpy_stdio.workspace / shown.data["displays"][0]["files"]["text/html"]).read_text()
        assert "vega" in page


async def test_pillow_and_sympy(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        shown = await look(client, "from PIL import Image\nImage.new('RGB', (3136, 100), 'red')")
        assert shown.image_size() == (1568, 50)
        shown = await look(client, "import sympy\nx = sympy.symbols('x')\nsympy.Integral(x**2, x)")
        assert shown.results == ["Integral(x**2, x)"]


async def test_ipythons_display_is_ours(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        shown = await look(
            client,
            "from IPython.display import HTML, Image, Markdown, clear_output, display\n"
            "import matplotlib.pyplot as plt\nplt.plot([1]); plt.savefig('a.png'); plt.close()\n"
            "display(HTML('<b>bold</b>'), Markdown('*m*'))\nImage('a.png')",
        )
        assert shown.results[:2] == ["bold", "*m*"] and len(shown.images) == 1
        shown = await look(client, "h = display(1, display_id=True)\nh.update(2)\ndisplay(3)")
        assert shown.results == ["2", "3"]


async def test_magics_by_way_of_ipython(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        await look(client, "value = 20")
        assert (await look(client, "import sys; 'IPython' in sys.modules")).results == ["False"]
        shown = await look(client, "!echo from the shell {value + 1}")
        assert shown.data["stdout"] == "from the shell 21\n"
        shown = await look(client, "%%time\ntotal = value + 22\ntotal")
        assert "Wall time" in shown.data["stdout"] and shown.results == ["42"]
        assert (await look(client, "total, _")).results == ["(42, 42)"]
        assert "loops each" in (await look(client, "%timeit -n 5 -r 2 value + 1")).data["stdout"]
        assert (await look(client, "%%bash\necho $((6 * 7))")).data["stdout"] == "42\n"
        assert (await look(client, "lines = !printf 'a\\nb'\nlen(lines)")).results == ["2"]
        assert "Return the number of items" in (await look(client, "len?")).data["stdout"]
        shown = await look(client, "def own(a):\n    return a  # mine")
        assert "# mine" in (await look(client, "own??")).data["stdout"]
        shown = await look(client, "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);")
        assert len(shown.images) == 1 and shown.data["stderr"] == ""
        assert "pip" in (await look(client, "%pip --version")).data["stdout"]
        shown = await look(client, "x = 1\n%nosuchmagic\ny = 2", "error")
        assert shown.data["error"]["line"] == 2 and "nosuchmagic" in shown.data["stderr"] + shown.data["stdout"]
        variables = (await client.call_tool("list_variables", {})).data["variables"]
        assert set(variables) == {"value", "total", "lines", "own", "x"}, variables


async def test_completion_by_jedi_and_details_of_variables(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        await look(
            client,
            "import numpy as np, pandas as pd, polars as pl\na = np.zeros((3, 4))\n"
            "df = pd.DataFrame({'Größe': [1, 2], 'name': ['x', 'y']})\np = pl.DataFrame({'k': [1]})\ns = df['name']",
        )

        async def matches(code: str) -> list[str]:
            found = await client.call_tool("code_completion", {"code": code, "cursor_pos": len(code)})
            assert found.data["status"] == "ok", found.data
            return found.data["matches"]

        assert "reshape" in await matches("a.resh")
        assert await matches("df['Gr") == ["Größe'"]
        assert await matches("p['") == ["k'"]
        assert "numpy" in await matches("import nump")
        assert "%timeit" in await matches("%ti")
        assert "fft" in await matches("np.ff")
        found = await client.call_tool("inspect_object", {"code": "np.linspace(", "cursor_pos": 12, "detail_level": 0})
        assert "linspace(start, stop, num=50" in found.data["data"]["text/plain"]
        details = (await client.call_tool("list_variables", {})).data["details"]
        assert details["a"]["type"] == "numpy.ndarray" and details["a"]["shape"] == [3, 4]
        assert details["a"]["dtype"] == "float64" and details["a"]["bytes"] == 96 and details["a"]["length"] == 3
        assert details["df"]["type"] == "pandas.DataFrame" and details["df"]["shape"] == [2, 2]
        assert details["df"]["dtype"].startswith("Größe: int64, name: ") and details["df"]["bytes"] > 16
        assert details["p"]["type"] == "polars.DataFrame" and details["p"]["shape"] == [1, 1]
        assert details["s"]["length"] == 2


async def test_requests_sqlite_and_tqdm(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        shown = await look(
            client,
            """
import http.server, threading, requests
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"answer": 42}')
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
requests.get(f"http://127.0.0.1:{server.server_port}", timeout=5).json()
""",
        )
        assert shown.results == ["{'answer': 42}"]
        shown = await look(client, "requests.get(f'http://127.0.0.1:{server.server_port}').status_code")
        assert shown.results == ["200"]
        shown = await look(
            client,
            "import sqlite3\ndb = sqlite3.connect(':memory:')\ndb.execute('create table t (a)')\n"
            "db.executemany('insert into t values (?)', [(1,), (2,)])\ndb.execute('select sum(a) from t').fetchone()",
        )
        assert shown.results == ["(3,)"]
        assert (await look(client, "db.execute('select count(*) from t').fetchone()")).results == ["(2,)"]
        shown = await look(client, "from tqdm.auto import tqdm\nsum(tqdm(range(1000)))")
        assert shown.results == ["499500"] and "100%" in shown.data["stderr"]
        assert len(shown.data["stderr"].splitlines()) == 1, "only the last state of a bar remains"


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_processes(forkpy_stdio: Forkpy, method: str) -> None:
    (forkpy_stdio.workspace / "work.py").write_text("def square(n):\n    return n * n\n")
    async with forkpy_stdio.client() as client:
        shown = await look(
            client,
            f"""
import concurrent.futures, multiprocessing, work
context = multiprocessing.get_context("{method}")
with context.Pool(2) as pool:
    one = pool.map(work.square, range(4))
with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    two = list(pool.map(work.square, range(4)))
one, two
""",
        )
        assert shown.results == ["([0, 1, 4, 9], [0, 1, 4, 9])"]
        # A function of a cell: a fork has it; a spawned process does not, and says so instead of hanging.
        code = "def own(n):\n    return n + 1\nwith context.Pool(1) as pool:\n    print(pool.map(own, [1]))"
        if method == "fork":
            assert (await look(client, code)).data["stdout"] == "[2]\n"


async def test_threads_subprocesses_and_asyncio(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        shown = await look(
            client,
            """
import asyncio, concurrent.futures, subprocess, sys, threading
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    squares = list(pool.map(lambda n: n * n, range(5)))
said = []
thread = threading.Thread(target=lambda: said.append(threading.current_thread().name), name="own")
thread.start(); thread.join()
code = "import numpy; print(numpy.__version__)"
version = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
squares, said, version.stdout.strip()
""",
        )
        assert shown.results[0].startswith("([0, 1, 4, 9, 16], ['own'], '2.")
        shown = await look(
            client,
            "async def twice(n):\n    await asyncio.sleep(0.01)\n    return 2 * n\n"
            "await asyncio.gather(twice(1), twice(2))",
        )
        assert shown.results == ["[2, 4]"]
        assert (await look(client, "asyncio.run(twice(21))")).results == ["42"]
        process = await look(
            client,
            "process = await asyncio.create_subprocess_exec('echo', 'hi', stdout=asyncio.subprocess.PIPE)\n"
            "(await process.communicate())[0]",
        )
        assert process.results == ["b'hi\\n'"]


async def test_an_error_inside_a_library_shows_the_cells_line(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        shown = await look(client, "import pandas as pd\ndf = pd.DataFrame({'a': [1]})\n\ndf['missing']", "error")
        assert shown.data["error"]["line"] == 4 and shown.data["error"]["type"] == "KeyError"
        trace = shown.data["stderr"]
        assert "df['missing']" in trace and "pandas" in trace and "forkpy_worker" not in trace


async def test_a_script_saves_what_it_has_shown(forkpy_stdio: Forkpy) -> None:
    code = (
        "import matplotlib.pyplot as plt\nfrom IPython.display import Markdown, display\n"
        "plt.plot([1, 2])\nplt.show()\nplt.savefig('shown.png')\nprint(len(plt.gca().lines))\ndisplay(Markdown('*m*'))"
    )
    (forkpy_stdio.workspace / "plot.py").write_text(code)
    async with forkpy_stdio.client() as client:
        ran = await client.call_tool("run_script", {"path": "plot.py"})
        assert ran.data["returncode"] == 0, ran.data
        assert ran.data["stdout"] == "1\n*m*\n"
        assert (forkpy_stdio.workspace / "shown.png").stat().st_size > 5000
