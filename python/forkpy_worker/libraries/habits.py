"""What only IPython understands: `!ls`, `%timeit`, `%%bash`, `obj?`; IPython itself does it, here.

Owns: the one IPython shell of the session, made when a cell first uses such syntax.
Runs in: worker main thread. Imports IPython inside functions only: that takes a third of a second.

A cell comes here when it is no Python. IPython turns it into Python, and it goes on as every other
cell does; of the shell only magics, system calls and events are used, never its way to run a cell.
"""

from __future__ import annotations

import builtins
import re

from forkpy_worker.base import place
from forkpy_worker.code import compiling
from forkpy_worker.libraries import loud, stand_ins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

_USED = re.compile(r"^\s*[%!?]|\?\s*$|=\s*[%!]\s*\w", re.MULTILINE)
MISSING = (
    "lines with % or ! at their beginning and ? at their end are IPython's, which is not in the "
    "session's environment. The tool install_dependencies installs it: packages ['ipython']. "
    "Without it: subprocess.run('ls', shell=True) for !ls, help(obj) for obj?, the timeit module."
)

_shell: Any = None


def is_used(code: str) -> bool:
    """Whether code that is no Python may be IPython's."""
    return _USED.search(code) is not None


def compile_cell(
    code: str, filename: str, error: SyntaxError
) -> tuple[CodeType | None, CodeType | None]:
    """Compile a cell by way of IPython; raises `error` when that is not what it needs."""
    if not is_used(code) or not stand_ins.has_ipython():
        raise error
    return compiling.compile_cell(shell().transform_cell(code), filename)


def hint(code: str) -> str | None:
    """Say what is missing, when code that is no Python looks like IPython's."""
    return MISSING if is_used(code) and not stand_ins.has_ipython() else None


def shell() -> Any:
    """Give the session's shell."""
    global _shell
    if _shell is None:
        _shell = _make()
        place.before_cell.append(_before)
        place.after_cell.append(_after)
    return _shell


def _make() -> Any:
    from traitlets.config import Config

    config = Config()
    # History would be a thread and a file; the session has its own.
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    before = dict(place.namespace)
    made = _shell_class().instance(config=config, user_module=place.main, user_ns=place.namespace)
    for name in ("_", "__", "___"):
        # They would hide those of `history`.
        if name not in before:
            place.namespace.pop(name, None)
    # It counts as a terminal's; ours shows what it is given.
    made.display_pub.publish = _publish
    made.set_hook("show_in_pager", _show_text)
    builtins.get_ipython = lambda: made  # type: ignore[attr-defined]
    builtins.display = stand_ins.display  # type: ignore[attr-defined]
    return made


def _shell_class() -> Any:
    from IPython.core.interactiveshell import InteractiveShell

    class SessionShell(loud.Loud, InteractiveShell):
        def init_user_ns(self) -> None:
            """Put nothing among the session's variables but what magics look for."""
            history = self.history_manager
            self.user_ns.setdefault("_ih", history.input_hist_parsed)
            self.user_ns.setdefault("_oh", history.output_hist)
            self.user_ns.setdefault("_dh", history.dir_hist)

        def init_virtualenv(self) -> None:
            """Leave the environment as it is: it is the right one."""

        def enable_matplotlib(self, gui: str | None = None) -> tuple[str, str]:
            """Figures are displays here, whatever was asked for."""
            import matplotlib

            from forkpy_worker.libraries import fit_matplotlib

            if matplotlib.get_backend() != fit_matplotlib.NAME:
                matplotlib.use(fit_matplotlib.NAME)
            return "inline", fit_matplotlib.NAME

        def enable_gui(self, gui: str | None = None) -> None:
            """There is no window to enable."""

    return SessionShell


def _publish(data: Any, metadata: Any = None, **more: Any) -> None:
    from forkpy_worker.display import display

    display.publish_display_data(
        data, metadata, transient=more.get("transient"), update=bool(more.get("update"))
    )


def _show_text(_shell: Any, data: Any, **_place: Any) -> None:
    """Serve `obj?`: the text is printed."""
    text = data.get("text/plain", "") if isinstance(data, dict) else str(data)
    print(text.rstrip())


def _before() -> None:
    """Extensions such as autoreload wait for these."""
    from IPython.core.interactiveshell import ExecutionInfo

    info = ExecutionInfo("", False, False, False, None)
    _shell.aside = True
    try:
        _shell.events.trigger("pre_execute")
        _shell.events.trigger("pre_run_cell", info)
    finally:
        _shell.aside = False


def _after() -> None:
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult

    info = ExecutionInfo("", False, False, False, None)
    _shell.aside = True
    try:
        _shell.events.trigger("post_execute")
        _shell.events.trigger("post_run_cell", ExecutionResult(info))
    finally:
        _shell.aside = False
