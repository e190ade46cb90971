"""Input for a running cell: `input()`, `sys.stdin` and the debugger ask the client's user.

Owns: the session's `sys.stdin`, `sys.breakpointhook`. Rust gives the function that asks
(`worker/input.rs`). What an error says here a model reads: it says what to do.
Runs in: worker main thread. Other threads and forked children are refused: the way to the client is
the main thread's.

Secrets are never asked for: MCP allows no form for them, and the answer would pass through whatever
the client logs.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from io import BufferedReader, RawIOBase, TextIOWrapper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NO_CLIENT = (
    "input() cannot be answered here: the client that sent this code cannot be asked for "
    "input (it did not offer MCP elicitation). Put the value into the code instead."
)
ELSEWHERE = (
    "input() cannot be answered here: only the main thread of a running cell can ask the "
    "client, not another thread or a forked process. Put the value into the code instead."
)
DECLINED = "the user declined to answer. Go on without the value, or put it into the code."
CANCELLED = "the user dismissed the question. Go on without the value, or put it into the code."
SECRET = (
    "getpass() is not answered here: a secret must not be asked for through an MCP client, which "
    "shows and keeps what is typed. Put it into an environment variable of the server, or into a "
    "file that the code reads."
)
NO_DEBUGGER = (
    "the debugger cannot be answered here: the client that sent this code cannot be asked for "
    "input (it did not offer MCP elicitation). Print what you want to see, or look at the "
    "variables after the cell."
)

# Asked before the forks: each would write to many pages for it.
_HAS_DEBUGGER = bool(os.environ.get("PYTHONBREAKPOINT"))

_ask: Callable[..., Any] | None = None
_main = 0
_pid = 0


def install(ask: Callable[..., Any]) -> None:
    """Remember what to ask with: `ask()` says whether one may, `ask(prompt)` gives (kind, text)."""
    global _ask, _main, _pid
    _ask = ask
    _main = get_ident()
    _pid = os.getpid()


def stream() -> Stream:
    """Make a standard input that asks."""
    return Stream(Reader(Lines()), "utf-8", "surrogateescape")


def may_ask() -> bool:
    """Whether the client would answer now."""
    return _ask is not None and get_ident() == _main and _ask()


def _line(prompt: str) -> tuple[str, str]:
    if _is_caller("getpass"):
        raise EOFError(SECRET)
    if not may_ask():
        is_ours = get_ident() == _main and os.getpid() == _pid
        raise _refusal(NO_DEBUGGER if _is_caller("cmd") else NO_CLIENT if is_ours else ELSEWHERE)
    kind, text = _ask(prompt)  # type: ignore[misc]
    if kind == "failed":
        raise _refusal(f"input() was not answered: {text}")
    return kind, text


def _refusal(words: str) -> Exception:
    # The loop of `cmd`, and so of the debugger, takes an EOFError for an answer, perhaps for ever.
    return RuntimeError(words) if _is_caller("cmd") else EOFError(words)


def _is_caller(module: str, depth: int = 12) -> bool:
    frame = sys._getframe(1)
    while frame is not None and depth:
        if frame.f_globals.get("__name__") == module:
            return True
        frame = frame.f_back  # type: ignore[assignment]
        depth -= 1
    return False


class Lines(RawIOBase):
    """Lines that the user types; a declined question is the end, as Ctrl-D is at a terminal."""

    name = "<stdin>"
    mode = "rb"

    def __init__(self) -> None:
        """Begin with nothing typed."""
        self._rest = b""

    def readable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Give descriptor 0, which is empty: other programs do not read what the user types."""
        if _is_caller("getpass"):
            raise EOFError(SECRET)
        return 0

    def readinto(self, buffer: Any, /) -> int:
        """Give what is left of a line, or ask for the next."""
        data = self._rest or self._next()
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        self._rest = data[size:]
        return size

    def readall(self) -> bytes:
        """Ask once: who reads to the end wants one text, not a question for each of its lines."""
        data = self._rest or self._next()
        self._rest = b""
        return data

    def _next(self) -> bytes:
        kind, text = _line("")
        if kind == "cancelled":
            raise EOFError(CANCELLED)
        return b"" if kind == "declined" else f"{text}\n".encode("utf-8", "surrogateescape")


class Reader(BufferedReader):
    """`sys.stdin.buffer`. It stays open: a text layer over it that is dropped closes it."""

    def close(self) -> None:
        """Do nothing."""


class Stream(TextIOWrapper):
    """`sys.stdin`. It stays open: `exit()` closes it, and ends no session."""

    def close(self) -> None:
        """Do nothing."""

    def detach(self) -> Any:
        """Give what is below, and keep it."""
        return self.buffer

    def ask(self, prompt: str) -> str:
        """Give a line for `input()`."""
        kind, text = _line(prompt)
        if kind != "line":
            raise EOFError(DECLINED if kind == "declined" else CANCELLED)
        return text


def install_debugger() -> None:
    """Let `breakpoint()` refuse before it stops where the client cannot let it go on."""
    if not _HAS_DEBUGGER:
        sys.breakpointhook = _breakpoint


def _breakpoint(*_: Any, header: str | None = None, **__: Any) -> None:
    if not may_ask():
        raise RuntimeError(NO_DEBUGGER)
    import pdb

    debugger = pdb.Pdb()
    if header is not None:
        debugger.message(header)
    debugger.set_trace(sys._getframe(1))
