"""Displays: which representations of a value are kept, what of them can be read."""

import base64
import importlib
import os
import pathlib
import sys

import pytest

from forkpy_worker.base import place
from forkpy_worker.cell import run as cell
from forkpy_worker.display import display, formats, readable
from forkpy_worker.libraries import ipython_display, stand_ins

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def outputs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(place, "outputs", str(tmp_path / "outputs"))
    monkeypatch.setattr(place, "session_id", "s")
    monkeypatch.setattr(place, "pid", os.getpid())
    place.namespace["display"] = display.display
    place.namespace["kinds"] = ipython_display
    return tmp_path / "outputs"


def run(number: int, code: str) -> list:
    status, _, error, _, shown, *_ = cell.run_cell(number, code)
    assert status == "ok", error
    return shown


class Picture:
    def _repr_png_(self) -> bytes:
        return PNG

    def _repr_jpeg_(self) -> bytes:
        raise AssertionError("one picture is enough")

    def _repr_html_(self) -> tuple[str, dict]:
        return "<b>bold</b>", {"isolated": True}


class Broken:
    def _repr_html_(self) -> str:
        raise RuntimeError("no html today")

    def _repr_markdown_(self) -> str:
        return "*words*"


class Everything:
    def __getattr__(self, name: str) -> object:
        return lambda *_: "anything"


def test_a_rich_value_comes_with_its_representations(outputs: pathlib.Path) -> None:
    place.namespace["picture"] = Picture()
    ((is_result, identity, update, _, late, text, metadata, data),) = run(400, "picture")
    assert (is_result, identity, update, late) == (True, None, False, False)
    assert text == "bold"
    assert metadata == '{"text/html": {"isolated": true}}'
    kept = {mime: (file, raw) for mime, file, raw in data}
    assert kept["image/png"] == ("outputs/s-cell-400-2.png", PNG)
    assert (outputs / "s-cell-400-2.png").read_bytes() == PNG
    assert kept["text/html"][1] == b"<b>bold</b>"


def test_a_method_that_raises_costs_its_own_representation(capfd: pytest.CaptureFixture) -> None:
    place.namespace["broken"] = Broken()
    ((*_, data),) = run(401, "broken")
    assert [mime for mime, _, _ in data] == ["text/markdown", "text/plain"]
    assert "no html today" in capfd.readouterr().err


def test_an_object_with_every_attribute_is_plain() -> None:
    assert not formats.is_rich(Everything())
    assert not formats.is_rich(Picture)


def test_displays_come_before_an_exception_and_stay() -> None:
    status, _, error, _, shown, *_ = cell.run_cell(402, "display('a', 'b')\n1/0")
    assert status == "error" and error[0] == "ZeroDivisionError"
    assert [text for *_, text, _, _ in shown] == ["'a'", "'b'"]


def test_update_replaces_in_the_cell_and_is_told_across_cells() -> None:
    (shown,) = run(403, "h = display('old', display_id='x')\nh.update('new')")
    assert (*shown[1:3], shown[5]) == ("x", False, "'new'")
    (shown,) = run(404, "h.update('newer')")
    assert (*shown[1:3], shown[5]) == ("x", True, "'newer'")


def test_clear_output_takes_back() -> None:
    code = "for n in range(5):\n    display(n, clear=True)"
    assert [text for *_, text, _, _ in run(405, code)] == ["4"]


def test_displays_are_bounded_in_number() -> None:
    shown = run(406, "for n in range(500):\n    display(n)")
    assert len(shown) == display.MAX_DISPLAYS
    assert shown[-1][5] == "[401 more displays were left out: a cell can show 100]"


def test_a_picture_too_large_for_a_report_is_a_file(outputs: pathlib.Path) -> None:
    code = f"display({{'image/png': bytes({display.MAX_BYTES + 1})}}, raw=True)"
    ((*_, data),) = run(407, code)
    mime, file, raw = data[0]
    assert (mime, raw) == ("image/png", b"")
    assert (outputs / pathlib.Path(file).name).stat().st_size == display.MAX_BYTES + 1


def test_classes_of_the_stand_in() -> None:
    shown = run(
        408,
        "display(kinds.HTML('<ul><li>one<li>two</ul>'), kinds.Markdown('# m'), kinds.Math('x^2'),"
        " kinds.JSON({'a': 1}), kinds.Pretty('p'), kinds.SVG('<?xml?><svg/>'))",
    )
    texts = [text for *_, text, _, _ in shown]
    assert texts[:3] == ["- one\n- two", "# m", "$\\displaystyle x^2$"]
    assert texts[3] == '{\n "a": 1\n}' and texts[4] == "p"
    assert shown[5][7][0][2] == b"<svg/>"


def test_the_stand_in_is_imported_where_ipython_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [stand_ins._StandIn()])
    for name in [name for name in sys.modules if name.partition(".")[0] == "IPython"]:
        monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module("IPython.display")
    assert module.HTML is ipython_display.HTML
    with pytest.raises(ImportError):
        importlib.import_module("IPython.terminal")
    with pytest.raises(AttributeError, match="install_dependencies"):
        module.Nothing  # noqa: B018
    for name in [name for name in sys.modules if name.partition(".")[0] == "IPython"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_table_in_html_becomes_rows() -> None:
    rows = "<tr><th></th><th>a</th></tr><tr><td>x</td><td>10 &lt;</td></tr>"
    html = f"<style>td {{}}</style><table>{rows}</table>"
    assert readable.from_html(html) == "  | a\nx | 10 <"


def test_what_is_cleared_later_stays_until_something_comes() -> None:
    code = "from forkpy_worker.display.display import clear_output\ndisplay('a')\nclear_output(wait=True)"
    assert [text for *_, text, _, _ in run(410, code)] == ["'a'"]
    assert [text for *_, text, _, _ in run(411, f"{code}\ndisplay('b')")] == ["'b'"]


def test_an_empty_figure_is_named_in_notebooks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Figure:
        axes = lines = texts = images = ()

        def __repr__(self) -> str:
            return "<Figure with 0 Axes>"

    Figure.__module__ = "matplotlib.figure"
    monkeypatch.setattr(place, "displays", [])
    display.show_figure(Figure())
    assert place.displays == []
    monkeypatch.setattr(place, "in_notebook", True)
    display.show_figure(Figure())
    assert [text for *_, text, _, _ in place.displays] == ["<Figure with 0 Axes>"]


def test_an_empty_representation_keeps_its_name() -> None:
    (shown,) = run(
        412,
        "display({'application/vnd.bokehjs_exec.v0+json': '', 'text/html': '<b>x</b>'}, raw=True)",
    )
    assert ("application/vnd.bokehjs_exec.v0+json", None, b"") in shown[7]
