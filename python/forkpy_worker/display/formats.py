"""From an object to its representations, as notebooks choose them.

Owns: the order of preference among them. An object's own methods may do anything: each stands in a
`try`, and one that raises is told of on descriptor 2 and costs its own representation only.
Runs in: worker, in the thread that displays.
"""

from __future__ import annotations

from forkpy_worker.base import place
from forkpy_worker.display import known, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any, TypeAlias

    # mime type -> text or bytes, or what JSON can carry
    Data: TypeAlias = dict[str, Any]
    # by mime type or, for all of them, by name
    Metadata: TypeAlias = dict[str, Any]

METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "application/pdf": "_repr_pdf_",
    "text/latex": "_repr_latex_",
    "application/json": "_repr_json_",
    "application/javascript": "_repr_javascript_",
}
# What the session has set in its IPython shell, once there is one: see `shell_formats`.
settings: Any = None
# An object that answers to every attribute name answers to this one too.
_CANARY = "_ipython_canary_method_should_not_exist_"


def is_rich(value: Any) -> bool:
    """Whether a value has more to show than its `repr`."""
    if isinstance(value, type):
        return False
    if _by_type(type(value)) is not None or (settings is not None and settings.has(value)):
        return True
    return any(method(value, name) is not None for name in _NAMES)


_NAMES = ("_ipython_display_", "_repr_mimebundle_", *METHODS.values())


def method(value: Any, name: str) -> Callable[..., Any] | None:
    """Give an object's own method; None for classes and for objects that have any attribute."""
    try:
        if isinstance(value, type) or getattr(value, _CANARY, None) is not None:
            return None
        found = getattr(value, name, None)
    except Exception:
        return None
    return found if callable(found) else None


def bundle(
    value: Any, include: Container[str] | None = None, exclude: Container[str] | None = None
) -> tuple[Data, Metadata]:
    """Give all representations of a value."""
    data: Data = {}
    metadata: Metadata = {}

    offered = _call(value, "_repr_mimebundle_", include=include, exclude=exclude)
    if offered is not None:
        _take("", offered, data, metadata)
    for mime, name in METHODS.items():
        # Pillow would compress the picture twice.
        if mime in data or (mime == "image/jpeg" and "image/png" in data):
            continue
        found = _call(value, name) if _wanted(mime, include, exclude) else None
        if found is not None:
            _take(mime, found, data, metadata)
    special = _by_type(type(value))
    if special is not None:
        special(value, data)
    _add_what_was_set(value, data, metadata)
    if "text/plain" not in data:
        data["text/plain"] = plain(value)
    return {k: v for k, v in data.items() if _wanted(k, include, exclude)}, metadata


def _add_what_was_set(value: Any, data: Data, metadata: Metadata) -> None:
    """Add what the session has told IPython to show of such a value."""
    if settings is None:
        return
    settings.add(value, data, metadata)
    if "image/jpeg" in data and _named(type(value), "matplotlib", "Figure"):
        # The same picture, and one is enough.
        data.pop("image/png", None)


def _wanted(mime: str, include: Container[str] | None, exclude: Container[str] | None) -> bool:
    return (include is None or mime in include) and not (exclude and mime in exclude)


def _take(mime: str, offered: Any, data: Data, metadata: Metadata) -> None:
    """Enter what a method gave: a bundle, or one representation, or either with metadata."""
    if isinstance(offered, tuple) and len(offered) == 2:
        offered, more = offered
        if isinstance(more, dict) and more:
            metadata.update(more if mime == "" else {mime: more})
    if mime:
        data[mime] = offered
    elif isinstance(offered, dict):
        data.update({key: value for key, value in offered.items() if isinstance(key, str)})


def _call(value: Any, name: str, **options: Any) -> Any:
    found = method(value, name)
    if found is None:
        return None
    try:
        return found(**options)
    except NotImplementedError:
        return None
    except Exception as error:
        from forkpy_worker.report import report

        report.warn(f"{name} of {type(value).__name__} failed:", error)
        return None


def plain(value: Any) -> str:
    """Give the text of a value."""
    if settings is not None:
        text: str | None = settings.text(value)
        if text is not None:
            return text
    if _named(type(value), "pandas", "DataFrame") and not place.in_notebook:
        return known.table(value)
    return pretty.text(value)


def _by_type(kind: type) -> Callable[[Any, Data], None] | None:
    """Find what we know of a library's objects that they do not say themselves."""
    for base in kind.__mro__:
        found = _KNOWN.get(base.__name__)
        if found is not None and base.__module__.partition(".")[0] == found[0]:
            return found[1]
    return None


def _named(kind: type, library: str, name: str) -> bool:
    return any(
        base.__name__ == name and base.__module__.partition(".")[0] == library
        for base in kind.__mro__
    )


_KNOWN: dict[str, tuple[str, Callable[[Any, Data], None]]] = {
    "Figure": ("matplotlib", known.figure),
    "TopLevelMixin": ("altair", known.chart),
}
