"""How values are shown, as a session has told IPython: formatters, precision, format of figures.

Owns: the link from `formats` and `compiling` to the shell's settings. A value for which nothing was
set is shown as in a session without a shell.
Runs in: worker, in the thread that displays.
"""

from __future__ import annotations

from forkpy_worker.base import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLAIN = "text/plain"

_formatter: Any = None
# What the formatter of text knew before code told it more.
_known: tuple[dict[Any, Any], ...] = ()


def link(shell: Any) -> None:
    """Have the shell's settings honoured from now on."""
    global _formatter, _known
    from forkpy_worker.display import formats

    _formatter = shell.display_formatter
    _known = tuple(dict(table) for table in _tables(_formatter.formatters[PLAIN]))
    shell.configurables.append(_inline_backend(shell))
    formats.settings = Settings
    place.plain_types = frozenset()


def _tables(formatter: Any) -> tuple[dict[Any, Any], ...]:
    return formatter.type_printers, formatter.deferred_printers, formatter.singleton_printers


class Settings:
    """What `formats` asks."""

    @staticmethod
    def has(value: Any) -> bool:
        """Whether something was set for the pictures, HTML and the like of such a value."""
        return any(_finds(f, value) for mime, f in _others() if mime != PLAIN)

    @staticmethod
    def add(value: Any, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Add, or put in their places, the representations that were set."""
        for mime, formatter in _others():
            if not _finds(formatter, value):
                continue
            found = formatter(value)
            if found is None:
                continue
            more = None
            if isinstance(found, tuple) and len(found) == 2:
                found, more = found
            if mime:
                data[mime] = found
                if more:
                    metadata[mime] = more
            elif isinstance(found, dict):
                data.update(found)
                metadata.update(more or {})

    @staticmethod
    def text(value: Any) -> str | None:
        """Give the text of a value; None where nothing was set that concerns text."""
        formatter = _formatter.formatters[PLAIN]
        if _tables(formatter) == _known and not formatter.float_precision:
            return None
        found = formatter(value)
        return found if isinstance(found, str) else None


def _others() -> list[tuple[str, Any]]:
    """List the formatters that were told of some type; that of bundles has no mime type."""
    found = [item for item in _formatter.formatters.items() if item[0] != PLAIN]
    bundles = getattr(_formatter, "mimebundle_formatter", None)
    if bundles is not None:
        found.append(("", bundles))
    return [(mime, f) for mime, f in found if f.enabled and any(_tables(f))]


def _finds(formatter: Any, value: Any) -> bool:
    if id(value) in formatter.singleton_printers:
        return True
    try:
        formatter.lookup_by_type(type(value))
    except KeyError:
        return False
    return True


def show_value(value: Any) -> None:
    """Show the value of an expression that is not a cell's last: what `sys.displayhook` does."""
    if value is None:
        return
    from forkpy_worker.code import history
    from forkpy_worker.display import display

    display.result(value)
    history.keep(value, place.cell)


def interactivity() -> str:
    """Say which expressions of a cell show their values, as `InteractiveShell` was told."""
    from IPython.core.interactiveshell import InteractiveShell

    # Most people set it on the class, where it then stands in the trait's place.
    found = (InteractiveShell if place.shell is None else place.shell).ast_node_interactivity
    return found if isinstance(found, str) else "last_expr"


def _inline_backend(shell: Any) -> Any:
    """Make what `%config InlineBackend` sets, without importing matplotlib for it."""
    from traitlets import Bool, Dict, Set, Unicode, observe
    from traitlets.config.configurable import SingletonConfigurable

    class InlineBackend(SingletonConfigurable):
        rc = Dict(help="Settings of matplotlib.").tag(config=True)
        figure_formats = Set({"png"}, help="png, retina, jpeg, svg, pdf").tag(config=True)
        figure_format = Unicode("png", help="The same, when it is one.").tag(config=True)
        print_figure_kwargs = Dict({"bbox_inches": "tight"}).tag(config=True)
        close_figures = Bool(True, help="Close figures when they were shown.").tag(config=True)

        @observe("figure_format")  # type: ignore[untyped-decorator]
        def _take_one(self, change: Any) -> None:
            self.figure_formats = {change["new"]}

        @observe("figure_formats", "print_figure_kwargs")  # type: ignore[untyped-decorator]
        def _take(self, _change: Any) -> None:
            from IPython.core.pylabtools import select_figure_formats

            select_figure_formats(shell, self.figure_formats, **self.print_figure_kwargs)

        @observe("rc")  # type: ignore[untyped-decorator]
        def _set_rc(self, change: Any) -> None:
            import matplotlib

            matplotlib.rcParams.update(change["new"])

        @observe("close_figures")  # type: ignore[untyped-decorator]
        def _keep_open(self, change: Any) -> None:
            from forkpy_worker.libraries import fit_matplotlib

            fit_matplotlib.closes = change["new"]

    return InlineBackend.instance(parent=shell)
