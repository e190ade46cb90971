"""Words on lines of a width: groups, places where a line may end, and which of them ends.

Owns: nothing. This is how IPython's `lib.pretty` (by Armin Ronacher, BSD licence) breaks lines, its
quirks included, so that a value has the same lines here and in Jupyter. Knows no types of values:
`pretty.py` writes those.
Runs in: worker, in the thread that shows a value.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

WIDTH = 79
# Jupyter shows so many items of a container; a reply that has no such bound has its `repr` beyond.
MAX_ITEMS = 1000


class TooManyError(Exception):
    """A container has more items than are laid out one by one."""


class _Group:
    """What is on one line, or else has each of its parts on one."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.breaks: deque[_Break] = deque()
        self.is_broken = False


class _Break:
    """A place where a line may end."""

    def __init__(self, words: str, group: _Group, indentation: int) -> None:
        self.words = words
        self.width = len(words)
        self.group = group
        self.indentation = indentation


class Layout:
    """Lays words out: what is in a group is on one line, or each of its parts is on one."""

    def __init__(self, max_seq_length: int | None = MAX_ITEMS) -> None:
        """Begin with nothing; without a bound, a container of very many items is refused."""
        self.parts: list[str] = []
        self.verbose = False
        self.max_width = WIDTH
        self.newline = "\n"
        self.max_seq_length = max_seq_length or MAX_ITEMS
        self.indentation = 0
        self.stack: list[int] = []
        self._refuses = max_seq_length is None
        self._line = 0
        self._waiting = 0
        self._buffer: deque[_Break | list[str]] = deque()
        root = _Group(0)
        self._groups = [root]
        self._queue: list[list[_Group]] = [[root]]

    def text(self, words: str) -> None:
        """Add words as they are."""
        if not self._buffer:
            self.parts.append(words)
            self._line += len(words)
            return
        last = self._buffer[-1]
        if isinstance(last, list):
            last.append(words)
        else:
            self._buffer.append([words])
        self._waiting += len(words)
        self._break_outer_groups()

    def breakable(self, sep: str = " ") -> None:
        """Add a place where the line may end, else `sep`."""
        group = self._groups[-1]
        if group.is_broken:
            self.flush()
            self._new_line(self.indentation)
            self._waiting = 0
            return
        place_to_break = _Break(sep, group, self.indentation)
        group.breaks.append(place_to_break)
        self._buffer.append(place_to_break)
        self._waiting += len(sep)
        self._break_outer_groups()

    def break_(self) -> None:
        """End the line here."""
        group = self._next_group()
        if group is not None:
            self._break(group)
        self.flush()
        self._new_line(self.indentation)
        self._waiting = 0

    def begin_group(self, indent: int = 0, open: str = "") -> None:  # noqa: A002
        """Begin what should be on one line."""
        if open:
            self.text(open)
        group = _Group(self._groups[-1].depth + 1)
        self._groups.append(group)
        while group.depth >= len(self._queue):
            self._queue.append([])
        self._queue[group.depth].append(group)
        self.indentation += indent

    def end_group(self, dedent: int = 0, close: str = "") -> None:
        """End it."""
        self.indentation -= dedent
        group = self._groups.pop()
        if not group.breaks:
            self._unqueue(group)
        if close:
            self.text(close)

    def group(self, indent: int = 0, open: str = "", close: str = "") -> _Within:  # noqa: A002
        """Begin a group and end it with the `with` block."""
        return _Within(self, indent, open, close)

    def indent(self, indent: int) -> _Within:
        """Indent lines that begin within the `with` block."""
        return _Within(self, indent, "", "", grouped=False)

    def flush(self) -> None:
        """Write what waits."""
        while self._buffer:
            before = self._line
            self._write(self._buffer.popleft())
            # So IPython counts, and so it breaks lines after that.
            self._line += before
        self._waiting = 0

    def items(self, values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Number values, up to a bound."""
        for number, value in enumerate(values):
            if number >= self.max_seq_length:
                if self._refuses:
                    raise TooManyError
                self.text(",")
                self.breakable()
                self.text("...")
                return
            yield number, value

    _enumerate = items

    def _write(self, part: _Break | list[str]) -> None:
        if isinstance(part, list):
            self.parts += part
            self._line += sum(map(len, part))
            return
        part.group.breaks.popleft()
        if part.group.is_broken:
            self._new_line(part.indentation)
            return
        if not part.group.breaks:
            self._unqueue(part.group)
        self.parts.append(part.words)
        self._line += part.width

    def _new_line(self, indentation: int) -> None:
        self.parts.append("\n" + " " * indentation)
        self._line = indentation

    def _break_outer_groups(self) -> None:
        while self._line + self._waiting > self.max_width:
            group = self._next_group()
            if group is None:
                return
            self._break(group)

    def _break(self, group: _Group) -> None:
        while group.breaks:
            self._take()
        while self._buffer and isinstance(self._buffer[0], list):
            self._take()

    def _take(self) -> None:
        part = self._buffer.popleft()
        self._waiting -= sum(map(len, part)) if isinstance(part, list) else part.width
        self._write(part)

    def _next_group(self) -> _Group | None:
        for groups in self._queue:
            for number, group in enumerate(reversed(groups)):
                if group.breaks:
                    del groups[number]
                    group.is_broken = True
                    return group
            for group in groups:
                group.is_broken = True
            del groups[:]
        return None

    def _unqueue(self, group: _Group) -> None:
        groups = self._queue[group.depth]
        if group in groups:
            groups.remove(group)


class _Within:
    """A group for a `with` block."""

    def __init__(
        self,
        layout: Layout,
        indent: int,
        open: str,  # noqa: A002
        close: str,
        grouped: bool = True,
    ) -> None:
        self._layout, self._indent, self._grouped = layout, indent, grouped
        self._open, self._close = open, close

    def __enter__(self) -> None:
        if self._grouped:
            self._layout.begin_group(self._indent, self._open)
        else:
            self._layout.indentation += self._indent

    def __exit__(self, *_: object) -> None:
        if self._grouped:
            self._layout.end_group(self._indent, self._close)
        else:
            self._layout.indentation -= self._indent
