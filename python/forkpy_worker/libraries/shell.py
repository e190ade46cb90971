"""The session's IPython shell: what magics, extensions and `get_ipython()` find.

Owns: the shell's class. It shows what it is given as displays of the session, and its history are
the session's cells. Cells do not run in it, see `habits`.
Runs in: worker main thread. Imports IPython, so nothing imports this before the shell is wanted.
"""

from __future__ import annotations

import builtins
import sys
from fnmatch import fnmatchcase
from importlib.util import find_spec

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.history import HistoryManager
from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell
from traitlets.config import Config

from forkpy_worker.base import place
from forkpy_worker.code import history, sources
from forkpy_worker.libraries import loud, pip_lines, shell_formats, stand_ins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_shell: Any = None
# The line magics that were there from the beginning.
_KNOWN: set[str] = set()


def make() -> Any:
    """Make the shell; `habits` keeps it."""
    global _shell
    config = Config()
    # History would be a thread and a file; the session has its own.
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    before = dict(place.namespace)
    made = SessionShell.instance(config=config, user_module=place.main, user_ns=place.namespace)
    _shell = made
    for name in ("_", "__", "___"):
        # They would hide those of `history`.
        if name not in before:
            place.namespace.pop(name, None)
    made.set_hook("show_in_pager", _show_text)
    # For good: `%%capture` puts another hook in this place, and takes it away again.
    made.display_trap.__enter__()
    shell_formats.link(made)
    made.execution_count = place.cell
    _KNOWN.update(made.magics_manager.magics["line"])
    made.events.register("post_execute", _show_figures)
    builtins.display = stand_ins.display  # type: ignore[attr-defined]
    builtins.get_ipython = stand_ins.get_ipython  # type: ignore[attr-defined]
    builtins.__IPYTHON__ = True  # type: ignore[attr-defined]
    return made


class SessionHistory(HistoryManager):
    """Serves `%history`, `%save`, `%macro`, `%rerun`, `%recall` from the session's cells."""

    def _get_range_session(
        self, start: int = 1, stop: int | None = None, raw: bool = True, output: bool = False
    ) -> Any:
        count = place.cell + 1
        start = start + count if start < 0 else start
        stop = count if not stop or stop > count else stop + count if stop < 0 else stop
        for cell in range(max(start, 1), stop):
            text = sources.text_of(f"<cell {cell}>")
            if text:
                yield self._entry(cell, text, raw, output)

    def _entry(self, cell: int, text: str, raw: bool, output: bool) -> Any:
        text = text.rstrip("\n")
        if not raw:
            text = self.shell.input_transformer_manager.transform_cell(text).rstrip("\n")
        if not output:
            return 0, cell, text
        value = history.results().get(cell)
        return 0, cell, (text, None if value is None else repr(value))

    def get_tail(
        self,
        n: int | None = 10,
        raw: bool = True,
        output: bool = False,
        include_latest: bool = False,
    ) -> Any:
        """Get the last n cells, without the one that asks."""
        found = list(self._get_range_session(1, None, raw, output))
        if not include_latest and found and found[-1][1] == place.cell:
            del found[-1]
        return found[-n:] if n else found

    def search(
        self,
        pattern: str = "*",
        raw: bool = True,
        search_raw: bool = True,
        output: bool = False,
        n: int | None = None,
        unique: bool = False,
    ) -> Any:
        """Find the cells that are as a pattern says."""
        found = [
            self._entry(cell, text, raw, output)
            for _, cell, text in self._get_range_session(1, None, search_raw)
            if fnmatchcase(text, pattern)
        ]
        if unique:
            found = list({entry[2]: entry for entry in found}.values())
        return found[-n:] if n else found

    def store_inputs(self, *_given: Any, **_named: Any) -> None:
        """Leave it to the session, which knows its cells."""

    def store_output(self, *_given: Any, **_named: Any) -> None:
        """Leave it to the session, which knows its results."""


class SessionPublisher(DisplayPublisher):
    """Shows what magics show, as displays of the session."""

    def publish(self, data: Any, metadata: Any = None, **more: Any) -> None:
        """Show a dict of mime type to data."""
        from forkpy_worker.display import display

        display.publish_display_data(
            data, metadata, transient=more.get("transient"), update=bool(more.get("update"))
        )

    def clear_output(self, wait: bool = False) -> None:
        """Take back what this cell has displayed."""
        from forkpy_worker.display import display

        display.clear_output(wait)


class SessionDisplayHook(DisplayHook):
    """Shows the values of code that a magic runs."""

    def __call__(self, result: Any = None) -> None:
        """Show the value of an expression that some code runs by itself."""
        if result is not None and not self.quiet():
            self.fill_exec_result(result)
            shell_formats.show_value(result)


class SessionShell(loud.Loud, InteractiveShell):
    """IPython's shell without a terminal, a history file or a namespace of its own."""

    displayhook_class = SessionDisplayHook
    display_pub_class = SessionPublisher

    @property
    def display_pub(self) -> Any:
        """Give what shows: the session's, or what captures."""
        return self._display_pub

    @display_pub.setter
    def display_pub(self, publisher: Any) -> None:
        from forkpy_worker.display import display

        self._display_pub = publisher
        display.redirected = None if type(publisher) is SessionPublisher else publisher

    def init_history(self) -> None:
        """Let the session's cells be the history."""
        self.history_manager = SessionHistory(shell=self, parent=self)
        self.configurables.append(self.history_manager)

    def init_user_ns(self) -> None:
        """Put nothing among the session's variables but what magics look for."""
        self.user_ns.setdefault("_ih", builtins.In)  # type: ignore[attr-defined]
        self.user_ns.setdefault("_oh", builtins.Out)  # type: ignore[attr-defined]
        self.user_ns.setdefault("_dh", self.history_manager.dir_hist)

    def init_virtualenv(self) -> None:
        """Leave the environment as it is: it is the right one."""

    def init_magics(self) -> None:
        """Add those that a session has in another way."""
        super().init_magics()
        _add_magics(self)

    def has_magic(self, word: str) -> bool:
        """Whether a word begins a line of this shell without `%`."""
        return self.automagic and (
            self.find_line_magic(word) is not None
            or type(self.user_ns.get(word)).__name__ == "Macro"
        )

    def define_macro(self, name: str, themacro: Any) -> None:
        """Remember the name: a cell that consists of it runs the macro."""
        super().define_macro(name, themacro)
        place.magic_words.add(name)

    def set_next_input(self, text: str, replace: bool = False) -> None:
        """Serve `%recall` and `%load`: a notebook puts the text into the next cell."""
        print(text)

    def enable_matplotlib(self, gui: str | None = None) -> tuple[str, str]:
        """Figures are displays here, whatever was asked for."""
        import matplotlib

        from forkpy_worker.libraries import fit_matplotlib

        if matplotlib.get_backend() != fit_matplotlib.NAME:
            matplotlib.use(fit_matplotlib.NAME)
        return "inline", fit_matplotlib.NAME

    def enable_gui(self, gui: str | None = None) -> None:
        """There is no window to enable."""


def _add_magics(shell: Any) -> None:
    if find_spec("pip") is None:
        # An environment that uv has made: the magic would fail for want of pip.
        def pip(line: str) -> None:
            """Say how packages are installed here."""
            raise UsageError(pip_lines.hint(f"%pip {line}") or pip_lines.NO_PIP)

        shell.register_magic_function(pip, "line", "pip")


def _show_text(_shell: Any, data: Any, **_place: Any) -> None:
    """Serve `obj?`: the text is printed."""
    text = data.get("text/plain", "") if isinstance(data, dict) else str(data)
    print(text.rstrip())


def _show_figures() -> None:
    """Show what code left open that a magic has run: `%%capture` captures it then."""
    room = sys.modules.get("forkpy_worker.libraries.fit_matplotlib")
    if room is not None and "matplotlib.pyplot" in sys.modules:
        room.show_open()


def before_cell() -> None:
    """Trigger what extensions such as autoreload wait for."""
    _shell.execution_count = place.cell
    _name_inputs()
    _trigger("pre_execute")
    _trigger("pre_run_cell", _info())


def after_cell() -> None:
    """Trigger what extensions wait for when a cell has run."""
    result = ExecutionResult(_info())
    result.execution_count = place.cell
    _trigger("post_execute")
    _trigger("post_run_cell", result)
    place.magic_words.update(_shell.magics_manager.magics["line"].keys() - _KNOWN)


def _info() -> Any:
    return ExecutionInfo(sources.text_of(f"<cell {place.cell}>"), True, False, True, None)


def _trigger(event: str, *given: Any) -> None:
    _shell.aside = True
    try:
        _shell.events.trigger(event, *given)
    finally:
        _shell.aside = False


def _name_inputs() -> None:
    """Let `_i`, `_ii` and `_iii` be the texts of the cells before, as in IPython."""
    for distance, name in ((1, "_i"), (2, "_ii"), (3, "_iii")):
        setattr(builtins, name, sources.text_of(f"<cell {place.cell - distance}>"))
