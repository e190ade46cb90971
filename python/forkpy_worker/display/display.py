"""`display()` and its kin: what a cell shows beside what it prints.

Owns: `place.displays`, the files of displays in the session's outputs folder, display ids.
Runs in: worker, in whatever thread displays. Nothing imports this before a cell displays something.

A display is a tuple: is it the cell's result, its id, does it replace an earlier one, its number,
did it come when the code had ended, its text, its metadata as JSON, and its representations as
(mime type, file, bytes). Pictures, HTML and the like are files too; one that is too large for a
reply is nothing but a file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import uuid

from forkpy_worker.base import place, streams
from forkpy_worker.base.text import MAX_RESULT, clean, cut
from forkpy_worker.display import formats, readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any, TypeAlias

    from forkpy_worker.display.formats import Data, Metadata

    Representation: TypeAlias = tuple[str, str | None, bytes]
    Display: TypeAlias = tuple[bool, str | None, bool, int, bool, str, str, list[Representation]]

# For one representation and for a cell's together, in the report; what is more is in its file.
MAX_BYTES = 10 << 20
MAX_TOTAL = 20 << 20
# A cell that displays in a loop: what comes after these is counted and not kept.
MAX_DISPLAYS = 100
MAX_METADATA = 200_000
# A display larger than that gets no file.
MAX_FILE = 256 << 20

ENDINGS = {
    "text/html": "html",
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/svg+xml": "svg",
    "application/pdf": "pdf",
    "application/json": "json",
    "application/geo+json": "geo.json",
    "application/javascript": "js",
    "application/vnd.plotly.v1+json": "plotly.json",
}
# What is in the reply as text, or says no more than that does.
_READ = ("text/plain", "text/markdown", "text/latex")

_serials = itertools.count(1)
# What is shown is taken back as soon as there is something in its place.
_clears = False
_cell = -1
_bytes = 0
_left_out = 0
_names = 0
_figures: set[tuple[int, bytes]] = set()
# What gets displays instead of the report, while IPython captures them.
redirected: Any = None


def display(
    *values: Any,
    include: Container[str] | None = None,
    exclude: Container[str] | None = None,
    metadata: Metadata | None = None,
    transient: dict[str, Any] | None = None,
    display_id: Any = None,
    raw: bool = False,
    clear: bool = False,
    **more: Any,
) -> DisplayHandle | None:
    """Show values as a notebook does: pictures as pictures, tables as tables.

    display_id: True or a name; then `update_display` can replace what is shown.
    raw: the values are dicts of mime type to data already.
    """
    if display_id is True:
        display_id = uuid.uuid4().hex
    if display_id is None and transient:
        display_id = transient.get("display_id")
    identity = None if display_id is None else str(display_id)
    if clear:
        clear_output(wait=True)
    if not values and identity is not None:
        publish({"text/plain": ""}, metadata, display_id=identity)
    for value in values:
        if raw:
            publish(value, metadata, display_id=identity, update=bool(more.get("update")))
        else:
            _show(value, include, exclude, metadata, identity, bool(more.get("update")))
    return None if identity is None else DisplayHandle(identity)


def update_display(value: Any, *, display_id: Any, **options: Any) -> None:
    """Replace what is shown under a display id."""
    options["update"] = True
    display(value, display_id=display_id, **options)


def publish_display_data(
    data: Data,
    metadata: Metadata | None = None,
    *,
    transient: dict[str, Any] | None = None,
    update: bool = False,
    **_more: Any,
) -> None:
    """Show a dict of mime type to data."""
    identity = (transient or {}).get("display_id")
    publish(data, metadata, display_id=identity, update=update)


def clear_output(wait: bool = False) -> None:
    """Take back what this cell has displayed; a line that is being printed is begun anew."""
    global _clears
    if redirected is not None:
        redirected.clear_output(wait)
        return
    streams.flush()
    streams.mark("w" if wait else "c", next(_serials))
    if wait:
        _clears = True
    else:
        _take_back()
    print("\033[2K\r", end="")


def _take_back() -> None:
    global _clears
    _clears = False
    del place.displays[:]
    _begin(-1)


class DisplayHandle:
    """What `display(..., display_id=True)` gives back."""

    def __init__(self, display_id: Any = None) -> None:
        """Remember the id, or make one up."""
        self.display_id = uuid.uuid4().hex if display_id is None else str(display_id)

    def __repr__(self) -> str:
        """Say what it is."""
        return f"<{type(self).__name__} display_id={self.display_id}>"

    def display(self, value: Any, **options: Any) -> None:
        """Show another value under this id."""
        display(value, display_id=self.display_id, **options)

    def update(self, value: Any, **options: Any) -> None:
        """Replace what is shown."""
        update_display(value, display_id=self.display_id, **options)


def result(value: Any) -> bool:
    """Show a cell's last value; False when that has shown itself and there is no more to say."""
    shows_itself = formats.method(value, "_ipython_display_")
    if shows_itself is not None:
        try:
            shows_itself()
        except NotImplementedError:
            pass
        else:
            return False
    data, metadata = formats.bundle(value)
    if formats._named(type(value), "matplotlib", "Figure") and _seen(value, data):
        return False
    publish(data, metadata, is_result=True)
    return True


def show_figure(figure: Any) -> None:
    """Show a matplotlib figure, unless this cell has shown just this picture of it."""
    data, metadata = formats.bundle(figure)
    if not any(mime.startswith(("image/", "application/pdf")) for mime in data):
        # An empty one: Jupyter says so in words, and nowhere else is that wanted.
        if place.in_notebook:
            publish(data, metadata)
    elif not _seen(figure, data):
        publish(data, metadata)


def _seen(figure: Any, data: Data) -> bool:
    _begin(place.cell)
    picture = next((data[mime] for mime in data if mime.startswith("image/")), b"")
    # IPython's formatters give base64.
    raw = picture.encode() if isinstance(picture, str) else picture
    key = id(figure), hashlib.blake2b(raw).digest()
    seen = key in _figures
    _figures.add(key)
    return seen


def _show(
    value: Any,
    include: Container[str] | None,
    exclude: Container[str] | None,
    metadata: Metadata | None,
    identity: str | None,
    update: bool,
) -> None:
    shows_itself = formats.method(value, "_ipython_display_")
    if shows_itself is not None:
        try:
            shows_itself()
        except NotImplementedError:
            pass
        else:
            return
    data, own = formats.bundle(value, include, exclude)
    if formats._named(type(value), "matplotlib", "Figure"):
        _seen(value, data)
    publish(data, {**own, **(metadata or {})}, display_id=identity, update=update)


def publish(
    data: Data,
    metadata: Metadata | None = None,
    *,
    display_id: str | None = None,
    update: bool = False,
    is_result: bool = False,
) -> None:
    """Keep a display for the report of the cell."""
    global _left_out
    if not isinstance(data, dict):
        raise TypeError(f"data must be a dict of mime types, not {type(data).__name__}")
    if os.getpid() != place.pid:
        # A script, or a child of a cell's: what it shows is what it prints.
        print(readable.text(data))
        return
    if redirected is not None:
        transient = None if display_id is None else {"display_id": display_id}
        redirected.publish(data, metadata, transient=transient, update=update)
        return
    if _clears:
        _take_back()
    _begin(place.cell)
    replaced = _place_of(display_id) if update else None
    if replaced is None and len(place.displays) >= MAX_DISPLAYS and not is_result:
        _left_out += 1
        # The last one made room for these words.
        words = f"[{_left_out + 1} more displays were left out: a cell can show {MAX_DISPLAYS}]"
        place.displays[MAX_DISPLAYS - 1] = (
            False,
            None,
            False,
            next(_serials),
            False,
            words,
            "{}",
            [],
        )
        return
    data = {str(mime): content for mime, content in data.items() if content is not None}
    identity = None if display_id is None else clean(str(display_id))[:200]
    text = cut(clean(readable.text(data)), MAX_RESULT)
    shadow = None if place.keep_html or not _is_text_enough(data) else "text/html"
    represented = [_representation(mime, content, shadow) for mime, content in data.items()]
    # Neither here nor in a file: the disk is full. An empty one is kept, some libraries look for its name.
    represented = [
        shown for shown in represented if shown[1] or shown[2] or not data.get(shown[0], b"x")
    ]
    said = (text, _metadata(metadata), represented)
    if replaced is None:
        serial = next(_serials)
        streams.flush()
        streams.mark("d", serial)
        place.displays.append((is_result, identity, update, serial, False, *said))
    else:
        # As if it had been so from the beginning.
        place.displays[replaced] = (*place.displays[replaced][:5], *said)


def _begin(cell: int) -> None:
    """Count anew for another cell."""
    global _cell, _bytes, _clears, _left_out, _names
    if cell != _cell:
        _clears = False
        _bytes = _left_out = 0
        if cell >= 0:
            _names = 0
        _cell = cell
        _figures.clear()


def _place_of(identity: str | None) -> int | None:
    for place_in_list, shown in enumerate(place.displays):
        if identity is not None and shown[1] == identity:
            return place_in_list
    return None


def _metadata(metadata: Metadata | None) -> str:
    if not metadata:
        return "{}"
    try:
        text = json.dumps(metadata, default=str)
    except (TypeError, ValueError):
        return "{}"
    return clean(text) if len(text) <= MAX_METADATA else "{}"


def _is_text_enough(data: Data) -> bool:
    """Whether the HTML says nothing that the text does not: tables, estimators, datasets.

    All else is kept: a page of a chart needs its scripts, and `HTML(...)` or a formatter of the user's was asked for.
    """
    plain, html = data.get("text/plain"), data.get("text/html")
    if set(data) != {"text/plain", "text/html"} or not isinstance(html, str):
        return False
    if not isinstance(plain, str) or plain.startswith("<IPython."):
        return False
    return ("<table" in html and "<script" not in html) or any(known in html for known in _KNOWN)


# sklearn's estimators, xarray's datasets: classes of their outermost elements.
_KNOWN = ("sk-top-container", "xr-wrap")


def _representation(mime: str, content: Any, shadow: str | None = None) -> Representation:
    """Turn one into bytes, in a file unless it is plain text or the shadow of it."""
    global _bytes
    mime = clean(mime)[:200]
    raw = _raw(mime, content)
    file = None if mime in _READ or mime == shadow or not raw else _save(mime, raw)
    fits = len(raw) <= MAX_BYTES and _bytes + len(raw) <= MAX_TOTAL
    if not fits:
        return mime, file or (None if mime == shadow else _save(mime, raw)), b""
    _bytes += len(raw)
    return mime, file, raw


def _raw(mime: str, content: Any) -> bytes:
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if isinstance(content, str):
        if (
            mime.startswith(("image/", "video/", "audio/")) and mime != "image/svg+xml"
        ) or mime == "application/pdf":
            return _decoded(content)
        return clean(content).encode()
    if (
        isinstance(content, (list, tuple))
        and all(isinstance(line, str) for line in content)
        and "json" not in mime
    ):
        return clean("".join(content)).encode()
    return clean(json.dumps(content, default=str)).encode()


def _decoded(content: str) -> bytes:
    """Bundles carry pictures as base64."""
    import base64
    import binascii

    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        return content.encode("utf-8", "backslashreplace")


def _save(mime: str, raw: bytes) -> str | None:
    """Write a representation to a file of its own and give its name, relative to the workspace."""
    global _names
    if len(raw) > MAX_FILE:
        return None
    ending = ENDINGS.get(mime) or (
        "json" if mime.endswith("json") else "txt" if mime.startswith("text/") else "bin"
    )
    session = place.session_id or "session"
    try:
        while _names < 100_000:
            _names += 1
            name = f"{session}-cell-{place.cell}-{_names}.{ending}"
            try:
                descriptor = place.new_file(name, 0o644)
            except FileExistsError:
                continue
            with open(descriptor, "wb") as file:
                file.write(raw)
            return f"outputs/{name}"
    except OSError:
        # A full disk, a folder that was taken away: the reply has the display all the same.
        return None
    return None
