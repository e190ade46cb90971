"""What the zygote imports so that workers need not.

Owns: which modules are warm. May leave no thread of its own and no open descriptor behind: a fork would
lose the one and share the other. What threads libraries start is looked at from outside.
Runs in: zygote.
"""

from __future__ import annotations

import gc

# What most sessions need sooner or later, and what this package imports when first used. The
# zygote imports it one by one while no fork is waited for: nothing that takes longer than a fork may
# wait, for it hears of requests and of deaths in between only (jedi takes half a second).
COMMON = (
    "traceback",
    "linecache",
    "pickle",
    "inspect",
    "threading",
    "subprocess",
    "json",
    "asyncio",
    "warnings",
    "signal",
    "select",
    "atexit",
    "random",
    "math",
    "datetime",
    "decimal",
    "dataclasses",
    "typing",
    "pathlib",
    "tempfile",
    "shutil",
    "collections",
    "functools",
    "itertools",
    "re",
    "csv",
    "textwrap",
    "contextlib",
    "copy",
    "string",
    "statistics",
    "forkpy_worker.report.report",
    "forkpy_worker.display.results",
    "forkpy_worker.cell.awaiting",
    "forkpy_worker.variables.summaries",
    "forkpy_worker.variables.details",
    "forkpy_worker.variables.statefile",
    "forkpy_worker.variables.statepickle",
    "base64",
    "hashlib",
    "html.parser",
    "forkpy_worker.display.formats",
    "forkpy_worker.display.readable",
    "forkpy_worker.display.display",
)


def stage_one() -> None:
    """Import what the first plain cell needs, and no more: a client waits for this."""
    _check_library()
    from forkpy_worker.base import forks, streams
    from forkpy_worker.cell import run  # noqa: F401
    from forkpy_worker.lookup import answers  # noqa: F401
    from forkpy_worker.session import (
        probe,  # noqa: F401
        session,
    )
    from forkpy_worker.variables import state, variables  # noqa: F401

    watch()
    streams.prepare()
    session.fresh_main()
    forks.rest_at_births()

    settle()


def _check_library() -> None:
    """Refuse a standard library that is not this interpreter's: nearly nothing could be imported."""
    try:
        import _struct  # noqa: F401
        import math  # noqa: F401
    except ImportError as error:
        import sys

        place = getattr(sys, "_stdlib_dir", None) or sys.base_prefix
        words = f"the standard library in {place} is not that of this interpreter ({error})"
        raise ImportError(f"{words}; use an environment made by another Python, or none") from None


def preload(module: str) -> str | None:
    """Import a module by name; None when that worked, else the reason in one line."""
    from forkpy_worker.libraries import exercise

    watch()
    try:
        __import__(module)
    except KeyboardInterrupt:
        raise
    except BaseException as exception:
        # SystemExit too: some modules are scripts.
        return _one_line(exception)
    exercise.loaded()
    return None


def watch() -> None:
    """Fit libraries to sessions from now on."""
    from forkpy_worker.base import forks
    from forkpy_worker.libraries import watches

    forks.watch()
    for part in ("process", "reduction", "spawn"):
        watches.FITTED[f"multiprocessing.{part}"] = "forkpy_worker.variables.spawning"
    watches.install()


def settle() -> None:
    """Do last, before forks, what each of them would do: it dirties no shared page then.

    The look for IPython, and a rehearsal of a cell; and the collector is told that all this is here to stay.
    """
    from forkpy_worker.cell import run
    from forkpy_worker.libraries import stand_ins

    stand_ins.prepare()
    run.rehearse_before_forks()
    gc.collect()
    gc.freeze()


def _one_line(exception: BaseException) -> str:
    text = str(exception).strip().partition("\n")[0]
    name = type(exception).__name__
    return f"{name}: {text}" if text else name
