"""What IPython catches and only shows, the session hears: a cell that failed does not end well.

Owns: the part of the session's shell that lets nothing pass. IPython shows the errors of `%run`, of
`%%capture` and of `run_cell`, and goes on; magics that run programs (`!`, `%%bash`) do so after an
interrupt too. An error is remembered, and the cell ends with it; after an interrupt nothing more of
the cell runs.
Runs in: worker main thread.
"""

from __future__ import annotations

import os
import sys

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any


class Loud:
    """To be mixed into a shell, before `InteractiveShell`."""

    # While callbacks of events run: their failures are shown, and are not the cell's.
    aside = False

    def showtraceback(self, exc_tuple: Any = None, *given: Any, **named: Any) -> None:
        """Remember what is being handled; show what is only looked at again (`%tb`)."""
        exception = sys.exc_info()[1] if exc_tuple is None else exc_tuple[1]
        if not self._remember(exception):
            super().showtraceback(exc_tuple, *given, **named)  # type: ignore[misc]

    def showsyntaxerror(self, *given: Any, **named: Any) -> None:
        """Remember a syntax error as well."""
        if not self._remember(sys.exc_info()[1]):
            super().showsyntaxerror(*given, **named)  # type: ignore[misc]

    def _remember(self, exception: BaseException | None) -> bool:
        if exception is None or self.aside:
            return False
        if not any(exception is one for one in place.swallowed):
            exception.__traceback__ = _without_ipython(exception.__traceback__)
            place.swallowed.append(exception)
        return True

    def run_cell(self, *given: Any, **named: Any) -> Any:
        """Run code; an interrupt of it is one of the cell."""
        __tracebackhide__ = True
        return _heard(super().run_cell, *given, **named)  # type: ignore[misc]

    def run_line_magic(self, magic_name: str, line: str, _stack_depth: int = 1) -> Any:
        """Run a line magic."""
        __tracebackhide__ = True
        # One frame for us and one for what hears: it looks for the caller's variables.
        depth = _stack_depth + 2
        return _heard(super().run_line_magic, magic_name, line, _stack_depth=depth)  # type: ignore[misc]

    def run_cell_magic(self, *given: Any, **named: Any) -> Any:
        """Run a cell magic."""
        __tracebackhide__ = True
        return _heard(super().run_cell_magic, *given, **named)  # type: ignore[misc]

    def system(self, cmd: str) -> Any:
        """Run a program; it writes to the session's own descriptors, in order with all else."""
        return _heard(self.system_raw, cmd)  # type: ignore[attr-defined]

    def getoutput(self, *given: Any, **named: Any) -> Any:
        """Run a program and give what it writes."""
        return _heard(super().getoutput, *given, **named)  # type: ignore[misc]


def _heard(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Call a function of IPython's; raise the interrupt that it has swallowed."""
    __tracebackhide__ = True
    before, known = place.interrupts(), len(place.swallowed)
    try:
        value = function(*given, **named)
    except Exception:
        # `%%bash` makes an error of its program's end by our signal.
        if place.interrupts() == before:
            raise
        value = None
    shown = [error for error in place.swallowed[known:] if isinstance(error, KeyboardInterrupt)]
    if shown:
        place.swallowed.remove(shown[0])
        raise shown[0]
    if place.interrupts() != before:
        raise KeyboardInterrupt
    return value


def _without_ipython(trace: TracebackType | None) -> TracebackType | None:
    """Begin a traceback where the code that was run begins."""
    own = os.path.dirname(sys.modules["IPython"].__file__ or "") + os.sep
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(own):
        inner = inner.tb_next
    return inner
