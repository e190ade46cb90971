"""The display classes that cells import from `IPython.display` where IPython is not installed.

Owns: nothing. They hold data and have the `_repr_*_` methods that `formats` asks for.
Runs in: worker, once a cell imports them.
"""

from __future__ import annotations

import html
import json
import os
from typing import Any

from forkpy_worker.display.display import (
    DisplayHandle,
    clear_output,
    display,
    publish_display_data,
    update_display,
)

MISSING = (
    "{name!r} is not in forkpy's stand-in for IPython: install the real one with the tool "
    "install_dependencies, packages ['ipython']"
)


class DisplayObject:
    """Something to show: data, or a file or an address that it is read from."""

    _binary = False

    def __init__(
        self, data: Any = None, url: str | None = None, filename: Any = None, metadata: Any = None
    ) -> None:
        """Take the data, or remember where it is."""
        if isinstance(data, os.PathLike):
            data, filename = None, os.fspath(data)
        if isinstance(data, str) and url is None and filename is None:
            if data.startswith(("http://", "https://")) and "\n" not in data:
                data, url = None, data
            elif self._is_file(data):
                data, filename = None, data
        self.data = data
        self.url = url
        self.filename = None if filename is None else os.fspath(filename)
        self.metadata = metadata or {}
        self.reload()

    def _is_file(self, data: str) -> bool:
        return False

    def reload(self) -> None:
        """Read the data from its file or address."""
        if self.filename is not None:
            with open(self.filename, "rb") as file:
                content = file.read()
        elif self.url is not None and self._fetches():
            from urllib.request import urlopen

            with urlopen(self.url, timeout=30) as answer:
                content = answer.read()
        else:
            return
        self.data = content if self._binary else content.decode("utf-8", "replace")

    def _fetches(self) -> bool:
        return True

    def _with_metadata(self, data: Any) -> Any:
        return (data, self.metadata) if self.metadata else data

    def __repr__(self) -> str:
        """Say what it is."""
        return f"<IPython.core.display.{type(self).__name__} object>"


class TextDisplayObject(DisplayObject):
    """Text of some kind."""


class Pretty(TextDisplayObject):
    """Plain text."""

    def __repr__(self) -> str:
        """Say what it is."""
        return str(self.data)


class HTML(TextDisplayObject):
    """HTML."""

    def _repr_html_(self) -> Any:
        return self._with_metadata(self.data)

    def __html__(self) -> Any:
        """Serve template engines."""
        return self.data


class Markdown(TextDisplayObject):
    """Markdown."""

    def _repr_markdown_(self) -> Any:
        return self._with_metadata(self.data)


class Latex(TextDisplayObject):
    """LaTeX."""

    def _repr_latex_(self) -> Any:
        return self._with_metadata(self.data)


class Math(Latex):
    """A formula in LaTeX, without the dollar signs."""

    def _repr_latex_(self) -> Any:
        return self._with_metadata(f"$\\displaystyle {self.data.strip('$')}$")


class SVG(DisplayObject):
    """An SVG drawing."""

    def _is_file(self, data: str) -> bool:
        return "<" not in data

    def _repr_svg_(self) -> Any:
        text = self.data.decode("utf-8", "replace") if isinstance(self.data, bytes) else self.data
        start = text.find("<svg")
        return self._with_metadata(text[start:] if start > 0 else text)


class JSON(DisplayObject):
    """Data that JSON can carry."""

    def __init__(
        self,
        data: Any = None,
        url: Any = None,
        filename: Any = None,
        expanded: bool = False,
        metadata: Any = None,
        root: str = "root",
        **more: Any,
    ) -> None:
        """Take data or its JSON text."""
        super().__init__(
            data, url, filename, {"expanded": expanded, "root": root, **(metadata or {}), **more}
        )
        if isinstance(self.data, str):
            self.data = json.loads(self.data)

    def _repr_json_(self) -> Any:
        return self.data, self.metadata


class GeoJSON(JSON):
    """Geographic data."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return {"application/geo+json": self.data}, {"application/geo+json": self.metadata}

    def _repr_json_(self) -> Any:
        return None


class Javascript(TextDisplayObject):
    """JavaScript; it is kept, and not run."""

    def __init__(
        self,
        data: Any = None,
        url: Any = None,
        filename: Any = None,
        lib: Any = None,
        css: Any = None,
    ) -> None:
        """Take the text; what it would load is not loaded."""
        super().__init__(data, url, filename)

    def _repr_javascript_(self) -> Any:
        return self.data


class Code(TextDisplayObject):
    """Source text."""

    def __init__(
        self, data: Any = None, url: Any = None, filename: Any = None, language: str | None = None
    ) -> None:
        """Take the text; it is not coloured here."""
        super().__init__(data, url, filename)
        self.language = language

    def _is_file(self, data: str) -> bool:
        return "\n" not in data and os.path.isfile(data)

    def __repr__(self) -> str:
        """Say what it is."""
        return str(self.data)

    def _repr_html_(self) -> Any:
        return f"<pre><code>{html.escape(str(self.data))}</code></pre>"


class Image(DisplayObject):
    """A picture: PNG, JPEG, GIF, WebP."""

    _binary = True

    def __init__(
        self,
        data: Any = None,
        url: Any = None,
        filename: Any = None,
        format: str | None = None,  # noqa: A002
        embed: bool | None = None,
        width: Any = None,
        height: Any = None,
        retina: bool = False,
        unconfined: bool = False,
        metadata: Any = None,
        alt: str | None = None,
    ) -> None:
        """Take the bytes, or a file or an address."""
        self.width, self.height, self.alt, self.retina = width, height, alt, retina
        self.unconfined, self._embed = unconfined, embed
        super().__init__(data, url, filename, metadata)
        self.format = (format or _image_format(self.data) or "png").lower()
        self.embed = self.data is not None

    def _fetches(self) -> bool:
        return self._embed is not False

    def _is_file(self, data: str) -> bool:
        return True

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if self.data is None:
            return {"text/html": f'<img src="{html.escape(self.url or "")}"/>'}
        kind = "jpeg" if self.format == "jpg" else self.format
        given = {"width": self.width, "height": self.height, "alt": self.alt}
        metadata = {key: value for key, value in given.items() if value is not None}
        mime = f"image/{kind}"
        return {mime: self.data}, {mime: {**metadata, **self.metadata}}


class Video(DisplayObject):
    """A film."""

    _binary = True
    _kind = "video"

    def __init__(
        self,
        data: Any = None,
        url: Any = None,
        filename: Any = None,
        embed: bool = False,
        mimetype: str | None = None,
        width: Any = None,
        height: Any = None,
        html_attributes: str = "controls",
        **_more: Any,
    ) -> None:
        """Take the bytes, or a file or an address."""
        self.mimetype, self.embed = mimetype, embed
        self.html_attributes, self.width, self.height = html_attributes, width, height
        super().__init__(data, url, filename)

    def _is_file(self, data: str) -> bool:
        return True

    def _fetches(self) -> bool:
        return False

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if not isinstance(self.data, bytes):
            source = html.escape(self.url or str(self.data))
            return {"text/html": f'<{self._kind} src="{source}" controls></{self._kind}>'}
        import mimetypes

        guessed = mimetypes.guess_type(self.filename or "")[0]
        return {self.mimetype or guessed or f"{self._kind}/mp4": self.data}


class Audio(Video):
    """Sound: a file's, or samples that are made one."""

    _kind = "audio"

    def __init__(
        self,
        data: Any = None,
        filename: Any = None,
        url: Any = None,
        embed: Any = None,
        rate: int | None = None,
        autoplay: bool = False,
        normalize: bool = True,
        *,
        element_id: Any = None,
    ) -> None:
        """Take bytes, a file, an address, or samples with their rate."""
        mimetype = None
        if data is not None and not isinstance(data, (str, bytes, os.PathLike)):
            if rate is None:
                raise ValueError("rate must be specified when data is samples")
            data, mimetype = _wave(data, rate, normalize), "audio/wav"
        super().__init__(data, url, filename, mimetype=mimetype)


def _wave(samples: Any, rate: int, normalize: bool) -> bytes:
    import io
    import wave

    rows = (
        [list(row) for row in samples]
        if hasattr(next(iter(samples), 0), "__iter__")
        else [list(samples)]
    )
    peak = max((abs(float(value)) for row in rows for value in row), default=1.0) or 1.0
    scale = 32767 / (peak if normalize else 1.0)
    frames = bytearray()
    for together in zip(*rows, strict=False):
        for value in together:
            level = max(-32768, min(32767, int(float(value) * scale)))
            frames += level.to_bytes(2, "little", signed=True)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(len(rows))
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(bytes(frames))
    return file.getvalue()


class IFrame:
    """Another page."""

    def __init__(
        self, src: str, width: Any, height: Any, extras: Any = None, **params: Any
    ) -> None:
        """Remember the address and the size."""
        from urllib.parse import urlencode

        query = ("&" if "?" in src else "?") + urlencode(params) if params else ""
        self.src, self.width, self.height, self.extras = src + query, width, height, extras or []

    def _repr_html_(self) -> str:
        source = html.escape(self.src)
        return f'<iframe src="{source}" width="{self.width}" height="{self.height}"></iframe>'

    def __repr__(self) -> str:
        """Say what it is."""
        return f"<a page: {self.src}>"


class FileLink:
    """A link to a file."""

    def __init__(self, path: Any, **_options: Any) -> None:
        """Remember the path."""
        self.path: str = os.fspath(path)

    def _repr_html_(self) -> str:
        path = html.escape(self.path)
        return f'<a href="{path}">{path}</a>'

    def __repr__(self) -> str:
        """Say what it is."""
        return os.path.abspath(self.path)


def _display_as(kind: type[DisplayObject]) -> Any:
    def show(*values: Any, raw: bool = False, metadata: Any = None, **options: Any) -> None:
        for value in values:
            display(kind(value) if raw else value, metadata=metadata, **options)

    return show


def _image_format(data: Any) -> str | None:
    if not isinstance(data, bytes):
        return None
    for start, name in (
        (b"\x89PNG", "png"),
        (b"\xff\xd8", "jpeg"),
        (b"GIF8", "gif"),
        (b"RIFF", "webp"),
    ):
        if data.startswith(start):
            return name
    return None


def fill(module: Any) -> None:
    """Make a module of the stand-in what its name says."""
    name = module.__name__
    if name == "IPython":
        # No version of the real one: a number that libraries compare and find old.
        module.__version__ = "0.0"
        module.version_info = (0, 0, 0, "")
        module.get_ipython = lambda: None
    elif name != "IPython.core":
        module.__dict__.update(_NAMES)
    module.__getattr__ = lambda asked: _refuse(name, asked)


def _refuse(module: str, name: str) -> Any:
    words = f"module {module!r} has no attribute {name!r}"
    if not name.startswith("__"):
        words = MISSING.format(name=f"{module}.{name}")
    raise AttributeError(words)


_CLASSES = (
    DisplayObject,
    TextDisplayObject,
    Pretty,
    HTML,
    Markdown,
    Latex,
    Math,
    SVG,
    JSON,
    GeoJSON,
    Javascript,
    Code,
    Image,
    Video,
    Audio,
    IFrame,
    FileLink,
    DisplayHandle,
)
_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in _CLASSES},
    "display": display,
    "update_display": update_display,
    "clear_output": clear_output,
    "publish_display_data": publish_display_data,
    **{f"display_{kind.__name__.lower()}": _display_as(kind) for kind in _CLASSES[2:11]},
    "display_png": _display_as(Image),
    "display_jpeg": _display_as(Image),
}
