"""plotly in a session: figures become displays instead of opening a browser.

Owns: plotly's renderer `forkpy`, its default unless `PLOTLY_RENDERER` names another.
Runs in: worker, when plotly's renderers are imported.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_TRACES = 8


def fit(renderers: ModuleType) -> None:
    """Make our renderer the default."""
    from plotly.io._base_renderers import ExternalRenderer

    class Renderer(ExternalRenderer):
        def render(self, fig_dict: Any) -> None:
            _show(fig_dict)

    renderers.renderers["forkpy"] = Renderer()
    if "PLOTLY_RENDERER" not in os.environ:
        renderers.renderers.default = "forkpy"


def _show(figure: dict[str, Any]) -> None:
    import plotly.io

    from forkpy_worker.display import display

    page = plotly.io.to_html(figure, include_plotlyjs="cdn", full_html=True, validate=False)
    json = plotly.io.to_json(figure, validate=False)
    data = {
        "text/plain": summary(figure),
        "text/html": page,
        "application/vnd.plotly.v1+json": json,
    }
    display.publish(data)


def summary(figure: dict[str, Any]) -> str:
    """Say in words what a figure shows, for readers of text, who see nothing else of it."""
    traces = figure.get("data") or ()
    title = (figure.get("layout") or {}).get("title") or {}
    title = title.get("text") if isinstance(title, dict) else title
    named = f" {title!r}" if title else ""
    shown = [
        f"{trace.get('type', 'scatter')} {trace.get('name') or ''}".strip()
        for trace in traces[:_TRACES]
    ]
    more = ", ..." if len(traces) > _TRACES else ""
    count = f"{len(traces)} trace" if len(traces) == 1 else f"{len(traces)} traces"
    return f"<plotly figure{named} with {count}: {', '.join(shown)}{more}>"
