"""IPython in a session, through FastMCP's client: what a notebook does with it.

Sessions run in the environment of libraries.txt (FORKPY_TEST_VENV, which prepare.py makes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from test_libraries import look

if TYPE_CHECKING:
    from support import Forkpy


async def test_get_ipython_is_there_and_costs_nothing_until_it_is_used(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        # pandas asks for the shell when it is imported and for each table, to see whether this is Jupyter.
        await look(client, "import sys\nimport pandas as pd\npd.DataFrame({'a': [1]})")
        there = "'IPython' in sys.modules, hasattr(__import__('builtins'), '__IPYTHON__')"
        assert (await look(client, there)).results == ["(False, True)"]
        await look(client, "get_ipython().run_line_magic('matplotlib', 'inline')")
        code = "import IPython\nfrom IPython import get_ipython as g\ndef f():\n    return get_ipython()\n"
        same = "IPython.get_ipython() is get_ipython() is g() is f(), get_ipython().user_ns is globals()"
        assert (await look(client, code + same)).results == ["(True, True)"]
        single = "IPython.core.interactiveshell.InteractiveShell.instance() is get_ipython()"
        assert (await look(client, single)).results == ["True"]


async def test_magics_see_the_cells_of_the_session(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        await look(client, "a = 41")
        await look(client, "print(a + 1)")
        await look(client, "%history -f h.txt")
        assert (await look(client, "open('h.txt').read().splitlines()[:2]")).results == ["['a = 41', 'print(a + 1)']"]
        await look(client, "%save kept 1-2")
        assert "a = 41\nprint(a + 1)" in (forkpy_stdio.workspace / "kept.py").read_text()
        await look(client, "%macro again 2")
        assert (await look(client, "again")).data["stdout"] == "42\n"
        assert "42\n" in (await look(client, "%rerun 2")).data["stdout"]
        assert (await look(client, "%recall 1")).data["stdout"] == "a = 41\n"
        assert (await look(client, "_i, _ii")).results == ["('%recall 1', '%rerun 2')"]


async def test_a_line_needs_no_percent_sign(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        assert "outputs/" in (await look(client, "ls")).data["stdout"]
        assert "total" in (await look(client, "ls -la")).data["stdout"]
        await look(client, "cd outputs")
        assert (await look(client, "pwd")).results[0].endswith("/outputs'")
        await look(client, "cd ..")
        magic = "from IPython.core.magic import register_line_magic\n@register_line_magic\ndef shout(line):\n"
        await look(client, magic + "    return line.upper() or 'silence'\ndel shout")
        for code, shown in (("%shout abc", "'ABC'"), ("shout abc", "'ABC'"), ("shout", "'silence'")):
            assert (await look(client, code)).results == [shown]
        # A variable of the name wins.
        assert (await look(client, "ls = 3\nla = 1\nls -la")).results == ["2"]
        assert (await look(client, "ls")).results == ["3"]
        told = await look(client, "x = 1\ncd outputs", "error")
        assert "%cd" in told.data["error"]["hint"]


async def test_capture_takes_displays_figures_and_values(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        code = "%%capture q\nprint('x')\ndisplay(5)\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\n7"
        seen = await look(client, code)
        assert (seen.images, seen.results, seen.data["stdout"]) == ([], [], "")
        kinds = "q.stdout, [sorted(o.data) for o in q.outputs]"
        expected = "('x\\n', [['text/plain'], ['text/plain'], ['image/png', 'text/plain']])"
        assert (await look(client, kinds)).results == [expected]
        seen = await look(client, "q()")
        assert len(seen.images) == 1 and seen.data["stdout"] == "x\n"
        code = "from IPython.utils.capture import capture_output\nwith capture_output() as z:\n    print('p')\n"
        seen = await look(client, code + "    display(5)\n    plt.plot([1]); plt.show()\nz.stdout, len(z.outputs)")
        assert (seen.images, seen.results) == ([], ["('p\\n', 2)"])
        assert len((await look(client, "plt.plot([1]);")).images) == 1, "nothing is captured any more"


async def test_interactivity(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        setting = (
            "from IPython.core.interactiveshell import InteractiveShell\nInteractiveShell.ast_node_interactivity = "
        )
        await look(client, setting + "'all'")
        assert (await look(client, "1\nx = 2\nx\n'three'")).results == ["1", "2", "'three'"]
        assert (await look(client, "for i in range(2):\n    i")).results == ["0", "1"]
        assert (await look(client, "1\n2;")).results == []
        assert (await look(client, "import asyncio\nawait asyncio.sleep(0, 4)\n5")).results == ["4", "5"]
        assert (await look(client, "_")).results == ["5"]
        await look(client, setting + "'last_expr_or_assign'")
        assert (await look(client, "1\ny = 5")).results == ["5"]
        assert (await look(client, "y += 1")).results == ["6"]
        assert (await look(client, "y = 7;")).results == []
        await look(client, setting + "'last'")
        assert (await look(client, "7\nif True:\n    8")).results == ["8"]
        await look(client, setting + "'none'")
        assert (await look(client, "9")).results == []
        await look(client, setting + "'last_expr'")
        assert (await look(client, "1\n2")).results == ["2"]


async def test_formatters_and_precision(forkpy_stdio: Forkpy) -> None:
    async with forkpy_stdio.client() as client:
        await look(client, "%precision 3")
        assert (await look(client, "3.14159")).results == ["3.142"]
        assert (await look(client, "[1.23456, 2]")).results == ["[1.235, 2]"]
        await look(client, "%precision")
        assert (await look(client, "3.14159")).results == ["3.14159"]
        text = "get_ipython().display_formatter.formatters['text/plain']"
        await look(client, text + ".for_type(complex, lambda o, p, c: p.text('CPLX'));")
        assert (await look(client, "3j")).results == ["CPLX"]
        assert (await look(client, "display([3j])")).results == ["[CPLX]"]
        html = "class A: pass\nf = get_ipython().display_formatter.formatters['text/html']\n"
        seen = await look(client, html + "f.for_type(A, lambda a: '<b>A</b>')\nA()")
        assert (forkpy_stdio.workspace / seen.data["outputs"][0]).read_text() == "<b>A</b>"


async def test_formats_of_figures(forkpy_stdio: Forkpy) -> None:
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    async with forkpy_stdio.client() as client:
        usual = (await look(client, plot)).image_size()
        await look(client, "%config InlineBackend.figure_format = 'svg'")
        seen = await look(client, plot)
        # A picture that models see comes along.
        assert len(seen.images) == 1 and any(name.endswith(".svg") for name in seen.data["outputs"])
        await look(client, "%config InlineBackend.figure_format = 'retina'")
        width, _ = (await look(client, plot)).image_size()
        assert width > 1.5 * usual[0]
        await look(client, "%config InlineBackend.figure_formats = {'png', 'pdf'}")
        names = (await look(client, plot)).data["outputs"]
        assert sorted(name[-4:] for name in names) == [".pdf", ".png"]


async def test_figures_stay_open_after_ioff(forkpy_stdio: Forkpy) -> None:
    plot = "import matplotlib.pyplot as plt\n"
    async with forkpy_stdio.client() as client:
        assert (await look(client, plot + "plt.ioff()\nplt.plot([1]);")).images == []
        seen = await look(client, "plt.get_fignums()")
        assert (seen.images, seen.results) == ([], ["[1]"])
        assert len((await look(client, "plt.show()")).images) == 1
        assert (await look(client, "plt.get_fignums()")).results == ["[]"]
        assert len((await look(client, "plt.ion()\nplt.plot([1]);")).images) == 1
        seen = await look(client, "with plt.ioff():\n    fig = plt.figure()\n    plt.plot([1])\nplt.get_fignums()")
        assert (seen.images, seen.results) == ([], ["[1]"])
        assert len((await look(client, "plt.figure(); plt.plot([2]);")).images) == 1, "only the new one"
        assert len((await look(client, "fig")).images) == 1
        await look(client, "plt.close('all')\n%config InlineBackend.close_figures = False")
        assert len((await look(client, "plt.plot([1]);")).images) == 1
        seen = await look(client, "plt.get_fignums()")
        assert (len(seen.images), seen.results[-1:]) == (0, ["[1]"])
        assert len((await look(client, "plt.title('new');")).images) == 1
