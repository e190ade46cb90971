"""What is known of libraries' objects that they do not say themselves: figures, charts, tables.

Owns: nothing. Imports a library only inside functions, which are called with an object of that library.
Runs in: worker, in the thread that displays.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Lines of a table are broken there when a model reads it, instead of at a terminal's 80.
TEXT_WIDTH = 200


def figure(value: Any, data: dict[str, Any]) -> None:
    """Draw a matplotlib figure as notebooks show it; nothing for an empty one."""
    if not value.axes and not value.lines and not value.texts and not value.images:
        return
    from io import BytesIO

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if value.canvas is None:
        FigureCanvasAgg(value)
    file = BytesIO()
    value.canvas.print_figure(
        file,
        format="png",
        dpi=value.dpi,
        facecolor=value.get_facecolor(),
        edgecolor=value.get_edgecolor(),
        bbox_inches="tight",
    )
    data["image/png"] = file.getvalue()


def table(value: Any) -> str:
    """Write a pandas data frame out without breaking its lines at a terminal's width."""
    import pandas

    if pandas.get_option("display.width") != 80:
        return repr(value)
    with pandas.option_context("display.width", TEXT_WIDTH):
        return repr(value)


def chart(value: Any, data: dict[str, Any]) -> None:
    """Give a Vega-Altair chart a page for people, and a picture where the environment has what draws it."""
    try:
        data["text/html"] = value.to_html()
        if "vl_convert" in sys.modules or _installed("vl_convert"):
            from io import BytesIO

            file = BytesIO()
            value.save(file, format="png")
            data["image/png"] = file.getvalue()
    except Exception as error:
        from forkpy_worker.report import report

        report.warn("the chart could not be drawn:", error)
    kind = type(value).__name__
    data["text/plain"] = f"<altair.{kind} of {_mark(value)}>"


def _mark(value: Any) -> str:
    mark = getattr(value, "mark", None)
    name = mark if isinstance(mark, str) else getattr(mark, "type", None)
    encoding = getattr(value, "encoding", None)
    fields = []
    for channel in ("x", "y", "color", "size", "row", "column"):
        shorthand = getattr(getattr(encoding, channel, None), "shorthand", None)
        if isinstance(shorthand, str):
            fields.append(f"{channel}={shorthand}")
    return " ".join([str(name) if isinstance(name, str) else "several marks", *fields])


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None
