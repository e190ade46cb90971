"""The text of a display: what can be read of its representations without a screen.

Runs in: worker, in the thread that displays. Pure.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Longer HTML is a page to look at, and not a text to read.
MAX_HTML = 400_000
MAX_JSON = 20_000

# `<IPython.core.display.HTML object>`, `<pandas.io.formats.style.Styler object at 0x7f...>`
_NO_WORDS = re.compile(r"<[\w.]+( object( at 0x[0-9a-f]+)?| at 0x[0-9a-f]+)>")


def text(data: dict[str, Any]) -> str:
    """Choose or make a text for a bundle."""
    plain = _string(data.get("text/plain"))
    if plain is not None and plain.strip() and not _NO_WORDS.fullmatch(plain.strip()):
        return plain
    for mime in ("text/markdown", "text/latex"):
        found = _string(data.get(mime))
        if found:
            return found
    html = _string(data.get("text/html"))
    if html:
        found = from_html(html[:MAX_HTML])
        if found:
            return found
    if "application/json" in data:
        content = data["application/json"]
        return (
            content
            if isinstance(content, str)
            else json.dumps(content, indent=1, default=str)[:MAX_JSON]
        )
    return plain or ""


def _string(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)) and all(isinstance(line, str) for line in content):
        return "".join(content)
    return None


def from_html(html: str) -> str:
    """Write HTML as text: tables by rows and columns, lists by lines, no markup."""
    writer = _Writer()
    try:
        writer.feed(html)
        writer.close()
    except Exception:
        return ""
    return writer.finish()


class _Writer(HTMLParser):
    """Collects lines."""

    _SILENT = frozenset(("script", "style", "head", "title", "template"))
    _BLOCKS = frozenset(
        (
            *("p", "div", "section", "article", "header", "footer", "table", "caption", "pre"),
            *("ul", "ol", "dl", "dt", "dd", "blockquote", "br", "hr"),
            *("h1", "h2", "h3", "h4", "h5", "h6"),
        )
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = [""]
        self._silent = 0
        self._pre = 0
        self._tables: list[list[list[str]]] = []
        self._cells: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._SILENT:
            self._silent += 1
        elif self._tables and tag in ("tr", "td", "th"):
            self._begin_cell(tag)
        elif tag == "img":
            self._write(f"[image {dict(attrs).get('alt') or ''}".rstrip() + "]")
        elif tag in self._BLOCKS or tag == "li":
            self._line()
            self._begin_block(tag)

    def _begin_cell(self, tag: str) -> None:
        rows = self._tables[-1]
        if tag == "tr" or not rows:
            rows.append([])
        if tag != "tr":
            rows[-1].append("")

    def _begin_block(self, tag: str) -> None:
        if tag == "table":
            self._tables.append([])
        elif tag == "pre":
            self._pre += 1
        elif tag == "li":
            self._write("- ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag == "table" and self._tables:
            table = self._tables.pop()
            for row in _aligned(table):
                self._line()
                self._write(row, as_it_is=True)
            self._line()
        elif tag == "pre":
            self._pre = max(0, self._pre - 1)
            self._line()
        elif tag in self._BLOCKS or tag == "li":
            self._line()

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._write(data, as_it_is=self._pre > 0 and not self._tables)

    def _write(self, words: str, as_it_is: bool = False) -> None:
        if not as_it_is:
            words = re.sub(r"\s+", " ", words)
        if self._tables:
            rows = self._tables[-1]
            if rows and rows[-1]:
                rows[-1][-1] += words
            return
        self._lines[-1] += words

    def _line(self) -> None:
        if self._tables:
            self._write(" ")
        elif self._lines[-1].strip():
            self._lines.append("")

    def finish(self) -> str:
        while self._tables:
            self.handle_endtag("table")
        lines = [line.rstrip() if line.startswith(" ") else line.strip() for line in self._lines]
        return "\n".join(line for line in lines if line.strip())


def _aligned(table: list[list[str]]) -> list[str]:
    """Write a table's rows with their columns under one another."""
    rows = [[cell.strip() for cell in row] for row in table if row]
    columns = max(map(len, rows), default=0)
    widths = [max((len(row[n]) for row in rows if n < len(row)), default=0) for n in range(columns)]
    lines = []
    for row in rows:
        cells = [cell.ljust(min(width, 60)) for cell, width in zip(row, widths, strict=False)]
        lines.append(" | ".join(cells).rstrip())
    return lines
