"""Scripts, packages and notebooks through FastMCP's client; notebooks judged and run by Jupyter's own tools."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from fastmcp.exceptions import ToolError
from nbclient import NotebookClient

from support import Forkpy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastmcp import Client

PIXEL = (
    "import base64\n"
    "class Picture:\n"
    "    def _repr_png_(self):\n"
    "        return base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9'\n"
    "            'awAAAABJRU5ErkJggg==')\n"
    "Picture()"
)


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result.data, dict), f"result.data of {tool} is no dict: its output schema has root properties"
    return result.data


async def run(client: Client, code: str) -> dict[str, Any]:
    return await call(client, "run_python_code", code=code)


async def test_a_script(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        text = "import sys\nopen('made.txt', 'w').close()\nprint(sys.argv[1:], __name__)\nsys.exit(3)\n"
        saved = await call(client, "save_script", name="job", content=text)
        done = await call(client, "run_script", path=saved["script"], args=["a", "b c"])
        assert (done["returncode"], done["stdout"], done["stderr"]) == (3, "['a', 'b c'] __main__\n", "")
        assert done["new_files"] == ["made.txt"]
        assert 0 < done["execution_time"] < 5
        with pytest.raises(ToolError, match="nowhere"):
            await call(client, "run_script", path="nowhere.py")
        assert (await run(client, "1 + 1"))["results"] == ["2"]


async def test_a_script_cancelled_by_the_client(forkpy: Forkpy) -> None:
    async with forkpy.client() as client:
        # The sign of its begin is given inside the `try`: a cancellation that comes at once is caught there as well.
        begin = "import time\ntry:\n    open('begun', 'w').close()\n    time.sleep(300)\n"
        text = begin + "finally:\n    open('tidied', 'w').close()\n"
        await call(client, "save_script", name="long", content=text)
        task = asyncio.create_task(client.call_tool("run_script", {"path": "long"}))
        await until_there(forkpy.workspace / "begun")
        task.cancel()
        await until_there(forkpy.workspace / "tidied")


async def until_there(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"{path} is not there")


@pytest.fixture(params=["stdio", "http"])
def forkpy_alone(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forkpy]:
    """Sessions in an environment that may be changed, with the pip of its base and no index in reach."""
    base = getattr(sys, "_base_executable", sys.executable)
    venv = tmp_path / "venv"
    subprocess.run([base, "-m", "venv", "--without-pip", "--system-site-packages", str(venv)], check=True)
    monkeypatch.setenv("FORKPY_TEST_VENV", str(venv))
    with Forkpy(request.param, tmp_path) as server:
        yield server


def wheel(folder: Path, name: str, version: str) -> str:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    file = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / file, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return file


async def test_packages(forkpy_alone: Forkpy) -> None:
    one = wheel(forkpy_alone.workspace, "small_one", "1.0")
    two = wheel(forkpy_alone.workspace, "small_one", "2.0")
    async with forkpy_alone.client() as client:
        assert (await run(client, "import small_one"))["error"]["type"] == "ModuleNotFoundError"
        done = await call(client, "install_dependencies", packages=[one])
        assert (done["returncode"], done["installed_packages"]) == (0, ["small_one==1.0"])
        assert (await run(client, "import small_one; small_one.version"))["results"] == ["'1.0'"]
        changed = await call(client, "install_dependencies", packages=[two])
        assert changed["stale"][0]["session_id"] == "default"
        assert "small_one 1.0" in changed["notice"]
        listed = await call(client, "list_packages", filter="small")
        assert listed["packages"] == [{"name": "small_one", "version": "2.0"}]
        for packages, words in ([], "nothing"), (["--index-url=x"], "options"), (["git+x"], "URL"):
            with pytest.raises(ToolError, match=words):
                await call(client, "install_dependencies", packages=packages)


async def test_an_exported_notebook_is_valid_and_jupyter_runs_it(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        for code in ("x = 20\nprint('out')\nx + 1", PIXEL, "'é' * 3", "def f():\n    1/0\nf()", "print(x)"):
            await run(client, code)
        done = await call(client, "export_notebook", path="session.ipynb")
        assert (done["cells"], done["format"]) == (5, "ipynb")
        page = await call(client, "export_notebook", path="session.html")
        assert page["format"] == "html"
    assert "<script" not in (forkpy.workspace / "session.html").read_text()
    notebook = nbformat.read(forkpy.workspace / "session.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert [output.output_type for output in notebook.cells[0].outputs] == ["stream", "execute_result"]
    assert "image/png" in notebook.cells[1].outputs[0].data
    assert notebook.cells[3].outputs[0].ename == "ZeroDivisionError"
    # What Jupyter makes of the same cells is what the notebook said of them. ipykernel sends a line in several pieces
    # where the machine is busy; as one they are compared.
    before = [[kind(output) for output in cell.outputs] for cell in notebook.cells]
    client = NotebookClient(notebook, timeout=300, startup_timeout=300, allow_errors=True, coalesce_streams=True)
    ran = await client.async_execute()
    assert [[kind(output) for output in cell.outputs] for cell in ran.cells] == before


def kind(output: Any) -> tuple[Any, ...]:
    if output.output_type == "stream":
        return output.output_type, output.name, output.text
    if output.output_type == "error":
        return output.output_type, output.ename, output.evalue
    data = {mime: value for mime, value in output.data.items() if mime.startswith("image/")}
    plain = output.data.get("text/plain")
    return output.output_type, data or plain


async def test_a_notebook_written_by_jupyters_tools_is_run(forkpy: Forkpy, mode: str) -> None:
    v4 = nbformat.v4
    defaults = v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]})
    cells = [v4.new_markdown_cell("# Title"), defaults, v4.new_code_cell("print(n)\nn * 2"), v4.new_code_cell("1/0")]
    nbformat.write(v4.new_notebook(cells=cells), forkpy.workspace / "in.ipynb")
    async with forkpy.client(mode) as client:
        done = await call(client, "run_notebook", path="in.ipynb", parameters={"n": 21}, output_path="out.ipynb")
        assert (done["status"], done["executed"], done["total"]) == ("error", 4, 4)
        assert done["failures"][0]["error"]["type"] == "ZeroDivisionError"
        assert (await run(client, "n"))["results"] == ["21"]
    notebook = nbformat.read(forkpy.workspace / "out.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.cells[2].metadata.tags == ["injected-parameters"]
    assert notebook.cells[3].outputs[0].text == "21\n"
    assert notebook.cells[3].outputs[1].data["text/plain"] == "42"
    untouched = nbformat.read(forkpy.workspace / "in.ipynb", as_version=4)
    assert all(cell.get("outputs", []) == [] for cell in untouched.cells)


async def test_a_notebook_of_an_older_format_is_upgraded_and_run(forkpy: Forkpy) -> None:
    code = {"cell_type": "code", "language": "python", "collapsed": False, "metadata": {}, "prompt_number": 7}
    old = [{"output_type": "pyout", "prompt_number": 7, "metadata": {}, "text": ["5"]}]
    cells = [
        {"cell_type": "heading", "level": 2, "metadata": {}, "source": ["Title"]},
        {**code, "input": ["x = 0.1\n", "print(x)\n", "x + 1"], "outputs": old},
    ]
    book = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": "old"}, "worksheets": [{"cells": cells}]}
    (forkpy.workspace / "old.ipynb").write_text(json.dumps(book))
    async with forkpy.client() as client:
        ran = await client.call_tool("run_notebook", {"path": "old.ipynb", "output_path": "new.ipynb"})
    assert ran.data["status"] == "ok"
    new = nbformat.read(forkpy.workspace / "new.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(new)
    assert (new.nbformat, new.cells[0].cell_type, new.cells[0].source) == (4, "markdown", "## Title")
    assert [output.output_type for output in new.cells[1].outputs] == ["stream", "execute_result"]
    assert new.cells[1].outputs[1].data["text/plain"] == "1.1"
    assert json.loads((forkpy.workspace / "old.ipynb").read_text()) == book
