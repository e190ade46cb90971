"""The session's standard streams: text that reaches the descriptor before `write` returns.

Owns: `sys.stdin`, `sys.stdout`, `sys.stderr` and their `__x__` twins, `builtins.print` and `input`.
What `input()` and `sys.stdin` ask with is in `asking.py`.
May not close or duplicate descriptors 0, 1, 2; Rust set them up, and cells' children share them.
Runs in: zygote (`prepare`), worker main thread (`install`), any thread of a cell (the rest).

Writing through is what keeps print, os.write, C's stdio and child processes in order: nothing waits
in a Python buffer while other code writes. Its price would be two system calls for each
`print(x)`, since CPython's print writes the text and the newline apart, and two threads' lines
would run into each other; our print joins them first, and leaves every unusual call to CPython's.
"""

from __future__ import annotations

import builtins
import os
import stat
import sys
from io import FileIO, TextIOWrapper
from os import write as _write

from forkpy_worker.base import asking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# What `input()` says where descriptor 0 is all there is.
NO_INPUT = "input() cannot be answered here: there is no standard input."

_builtin_print = builtins.print
_builtin_input = builtins.input

_stdin: Any = None
_stdout: Any = None
_stderr: Any = None
# What descriptors 1 and 2 are by themselves.
_pipes: dict[int, tuple[int, ...]] = {}


class Descriptor(FileIO):
    """A raw file on a descriptor whose `write` comes back only when all is written.

    It stays open: a second text layer over it, `io.TextIOWrapper(sys.stdout.buffer)`, closes what
    is below it as soon as the layer is dropped.
    """

    def close(self) -> None:
        """Do nothing: nothing waits here, and the descriptor is not ours to close."""

    def seekable(self) -> bool:
        """Say no: there is a pipe, or will be in the fork that this is made for."""
        return False

    @property
    def raw(self) -> Descriptor:
        """Give what `sys.stdout.buffer.raw` is elsewhere: there is no buffer between."""
        return self

    def detach(self) -> Descriptor:
        """Give the raw file, as a buffer does."""
        return self

    def write(self, data: Any, /) -> int:
        """Write all of it, also to a pipe that a child process made non-blocking (node does)."""
        return write_all(self.fileno(), data)


def write_all(descriptor: int, data: Any) -> int:
    """Write all of the data to a descriptor and give its size."""
    size = len(data) if type(data) is bytes else memoryview(data).nbytes
    try:
        done = _write(descriptor, data)
    except BlockingIOError:
        done = 0
    if done < size:
        _write_rest(descriptor, memoryview(data).cast("B"), done)
    return size


def _write_rest(descriptor: int, data: memoryview, done: int) -> None:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while done < len(data):
        poll.poll()
        try:
            done += _write(descriptor, data[done:])
        except BlockingIOError:
            continue


def mark(kind: str, serial: int) -> None:
    """Say in both streams that something is displayed here; the server takes it out again."""
    words = f"\x1b_forkpy:{kind}{serial}\x1b\\".encode()
    for descriptor, pipe in _pipes.items():
        try:
            # A cell may have put a file of its own in the pipe's place.
            if os.fstat(descriptor)[:3] == pipe:
                write_all(descriptor, words)
        except OSError:  # noqa: PERF203
            continue


# Standard input that asks, output and error, made before there is a session. They know descriptors 1
# and 2 by number.
_prepared: tuple[Any, Any, Any] | None = None
# Those that they replace: what a session does not free, it does not write to.
_replaced: list[Any] = []


def prepare() -> None:
    """Make the streams of sessions to come: each would write to many pages for it."""
    global _prepared
    # What imports have printed so far is no session's.
    flush()
    _replaced[:] = sys.stdin, sys.stdout, sys.stderr, builtins.input, builtins.print
    try:
        _prepared = asking.stream(), _writer(1, "<stdout>"), _writer(2, "<stderr>")
    except OSError:
        # One of the descriptors is closed.
        _prepared = None
    _replace_functions()


def install(ask: Callable[..., Any] | None = None) -> None:
    """Put fresh streams on descriptors 0, 1, 2 in the places where Python keeps them.

    With `ask`, standard input is what the client answers; without, it is descriptor 0.
    """
    global _stdin, _stdout, _stderr, _prepared
    know_pipes()
    asking_one, _stdout, _stderr = _prepared or (None, None, None)
    _prepared = None
    if ask is None:
        reader = asking.Reader(_named(FileIO(0, "r", closefd=False), "<stdin>"))
        _stdin = TextIOWrapper(reader, "utf-8", "surrogateescape")
    else:
        asking.install(ask)
        _stdin = asking_one or asking.stream()
    _stdout = _stdout or _writer(1, "<stdout>")
    _stderr = _stderr or _writer(2, "<stderr>")
    places: Any = sys
    places.stdin = places.__stdin__ = _stdin
    places.stdout = places.__stdout__ = _stdout
    places.stderr = places.__stderr__ = _stderr
    if builtins.print is not print:
        _replace_functions()


def _replace_functions() -> None:
    builtins.print = print
    builtins.input = input


def know_pipes() -> None:
    """Remember where descriptors 1 and 2 lead."""
    for descriptor in (1, 2):
        try:
            found = os.fstat(descriptor)
        except OSError:
            continue
        if stat.S_ISFIFO(found.st_mode):
            _pipes[descriptor] = found[:3]


def _writer(descriptor: int, name: str) -> TextIOWrapper:
    # Lone surrogates come out as \udc80: the server decodes what arrives, and print never raises.
    raw = _named(Descriptor(descriptor, "w", closefd=False), name)
    writer: Any = Writer(raw, "utf-8", "backslashreplace", "\n", False, True)
    writer.mode = "w"
    made: TextIOWrapper = writer
    return made


class Writer(TextIOWrapper):
    """`sys.stdout` and `sys.stderr`. Code that closes them, as scripts may, mutes no later cell."""

    def close(self) -> None:
        """Flush, and stay open."""
        self.flush()

    def detach(self) -> Any:
        """Give what is below, and keep it: `codecs.getwriter("utf-8")(sys.stdout.detach())`."""
        self.flush()
        return self.buffer

    def reconfigure(self, *, encoding: str | None = None, **options: Any) -> None:
        """Stay UTF-8, written through: what arrives is decoded so, whatever a terminal would show.

        A script for another system sets `latin-1`; its later text would arrive as other letters.
        """
        if encoding is not None:
            import codecs

            codecs.lookup(encoding)
        options.pop("write_through", None)
        super().reconfigure(**options)


def _named(raw: FileIO, name: str) -> FileIO:
    raw.name = name
    return raw


# Streams of the code's own that stood for ours: one that is dropped closes the descriptor below it,
# also under another that has taken its place (`sys.stdout = os.fdopen(1, "w")`, cell after cell).
_kept: list[Any] = []
_MOST_KEPT = 1000


def mend() -> None:
    """Put our streams back where code has left something that cannot be written to."""
    for stream in (sys.__dict__.get("stdout"), sys.__dict__.get("stderr")):
        if (
            isinstance(stream, TextIOWrapper)
            and len(_kept) < _MOST_KEPT
            and not any(stream is one for one in _kept)
        ):
            _kept.append(stream)
    if not _is_usable(sys.__dict__.get("stdout")):
        sys.stdout = _stdout
    if not _is_usable(sys.__dict__.get("stderr")):
        sys.stderr = _stderr
    if sys.__dict__.get("stdin") is None:
        sys.stdin = _stdin


def _is_usable(stream: Any) -> bool:
    if stream is _stdout or stream is _stderr:
        return True
    try:
        # `closed` of a text layer whose buffer was detached raises.
        return callable(stream.write) and not getattr(stream, "closed", False)
    except Exception:
        return False


def are_ours() -> bool:
    """Whether both streams are those that `install` made."""
    names = sys.__dict__
    return names.get("stdout") is _stdout and names.get("stderr") is _stderr


def flush() -> None:
    """Flush what cells may have put in the streams' places; what is broken stays so."""
    for name in ("stdout", "stderr"):
        try:
            sys.__dict__[name].flush()
        except Exception:  # noqa: PERF203
            # Closed, deleted, replaced by None or by anything: `mend` sees to it.
            continue


def print(
    *values: object,
    sep: str | None = " ",
    end: str | None = "\n",
    file: Any = None,
    flush: bool = False,
) -> None:
    """Print the values to a stream, or to sys.stdout by default.

    sep: string inserted between values, default a space.
    end: string appended after the last value, default a newline.
    file: a file-like object (stream); defaults to the current sys.stdout.
    flush: whether to forcibly flush the stream.
    """
    target = sys.stdout if file is None else file
    plain = target is _stdout or target is _stderr
    if plain and type(sep) is str and type(end) is str:
        target.write(sep.join(map(str, values)) + end)
    else:
        _builtin_print(*values, sep=sep, end=end, file=file, flush=flush)


def input(prompt: object = "", /) -> str:
    """Ask the client for a line; refuse at once, in clear words, when there is none to ask.

    prompt: printed to standard output first, without a newline.
    """
    if sys.stdin is not _stdin:
        return _builtin_input(prompt)
    text = str(prompt)
    print(text, end="")
    if isinstance(sys.stdin, asking.Stream):
        return sys.stdin.ask(text)
    raise EOFError(NO_INPUT)


# By these names pickle finds them again, here and in any other Python.
for _function in (print, input):
    _function.__module__ = "builtins"
del _function
