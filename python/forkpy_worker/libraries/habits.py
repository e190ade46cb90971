"""What only IPython understands: `!ls`, `%timeit`, `%%bash`, `obj?`; IPython itself does it, here.

Owns: the one IPython shell of the session, made when a cell first uses such syntax or asks for it,
and the words that say what to do where there is no IPython.
Runs in: worker main thread. Imports IPython inside functions only: that takes a third of a second.

A cell comes here when it is no Python. IPython turns it into Python, and it goes on as every other
cell does; of the shell only magics, system calls and events are used, never its way to run a cell.
"""

from __future__ import annotations

import builtins
import re

from forkpy_worker.base import place
from forkpy_worker.code import compiling
from forkpy_worker.libraries import pip_lines, stand_ins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

_USED = re.compile(r"^\s*[%!?]|\?\s*$|=\s*[%!]\s*\w|^[,;/]\s*\w", re.MULTILINE)
_WORD = re.compile(r"[^\W\d]\w*")
# Magics that people write without their `%`, as IPython lets them in a cell of one line.
WORDS = frozenset(
    [
        "alias",
        "autoreload",
        "bookmark",
        "cat",
        "cd",
        "clear",
        "conda",
        "config",
        "cp",
        "debug",
        "dhist",
        "dirs",
        "ed",
        "edit",
        "env",
        "hist",
        "history",
        "ll",
        "less",
        "ls",
        "logstart",
        "logstop",
        "lsmagic",
        "macro",
        "man",
        "mamba",
        "matplotlib",
        "mkdir",
        "more",
        "mv",
        "notebook",
        "page",
        "pdb",
        "pdef",
        "pdoc",
        "pfile",
        "pinfo",
        "pip",
        "popd",
        "pprint",
        "precision",
        "prun",
        "psearch",
        "psource",
        "pushd",
        "pwd",
        "pylab",
        "recall",
        "rehashx",
        "reload_ext",
        "rep",
        "rerun",
        "reset",
        "rm",
        "rmdir",
        "run",
        "save",
        "sc",
        "set_env",
        "store",
        "sx",
        "system",
        "tb",
        "time",
        "timeit",
        "unalias",
        "uv",
        "who",
        "who_ls",
        "whos",
        "xdel",
        "xmode",
        "load",
        "load_ext",
        "unload_ext",
    ]
)
NEEDED = (
    "{what} IPython's, which is not in the session's environment. The tool install_dependencies "
    "installs it: packages ['ipython']."
)
MISSING = (
    NEEDED.format(what="lines with % or ! at their beginning and ? at their end are")
    + " Without it: subprocess.run('ls', shell=True) for !ls, help(obj) for obj?, the timeit module."
)
# What does the same without IPython.
INSTEAD = {"ls": "os.listdir()", "cd": "os.chdir(path)", "pwd": "os.getcwd()"}


def is_used(code: str) -> bool:
    """Whether code that is no Python may be IPython's."""
    return _USED.search(code) is not None


def compile_cell(
    code: str, filename: str, error: SyntaxError
) -> tuple[CodeType | None, CodeType | None]:
    """Compile a cell by way of IPython; raises `error` when that is not what it needs."""
    if not (is_used(code) or _begins_with_magic(code)) or not stand_ins.has_ipython():
        raise error
    return compiling.compile_cell(shell().transform_cell(code), filename)


def compile_word(code: str, filename: str) -> tuple[CodeType | None, CodeType | None] | None:
    """Compile a cell such as `ls -l`, which is Python too: the difference of two names.

    It is a magic when nothing has this name; None when it is none.
    """
    word = _begins_with_magic(code)
    if not word or not stand_ins.has_ipython():
        return None
    transformed = shell().transform_cell(code)
    if transformed.strip() == code.strip():
        return None
    return compiling.compile_cell(transformed, filename)


def is_magic(word: str) -> bool:
    """Whether a name that nothing has, or that a macro has, is a magic's."""
    if word in WORDS:
        return not _is_shadowed(word)
    found = place.shell is not None and place.shell.has_magic(word)
    return found and not _is_shadowed(word)


def _is_shadowed(word: str) -> bool:
    value = place.namespace.get(word, _NOTHING)
    if value is _NOTHING:
        return word in _BUILTINS
    return type(value).__name__ != "Macro"


_NOTHING = object()
_BUILTINS = builtins.__dict__


def _begins_with_magic(code: str) -> str:
    """Give the magic that a cell of one line begins with, without its `%`."""
    line = code.strip()
    found = _WORD.match(line)
    if found is None or "\n" in line or not is_magic(found[0]):
        return ""
    rest = line[found.end() :]
    # An assignment, a call, an attribute are Python, whatever the name.
    return "" if rest[:1] in tuple(".([") or rest.lstrip()[:1] in tuple("=,(:") else found[0]


def hint_about(exception: BaseException, code: str) -> str | None:
    """Say what helps when code that IPython knows is no Python, or has a name that it knows."""
    if isinstance(exception, SyntaxError):
        return hint(code, exception.lineno)
    if isinstance(exception, NameError):
        return name_hint(exception.name or "", code)
    return None


def hint(code: str, line: int | None = None) -> str | None:
    """Say what is missing, when code that is no Python looks like IPython's."""
    there = stand_ins.has_ipython()
    lines = code.split("\n")
    told = lines[line - 1] if line and 0 < line <= len(lines) else ""
    # Where IPython is, only the line counts that even it did not understand.
    installing = pip_lines.hint(told if there else code)
    if installing is not None:
        return installing
    if not there:
        return MISSING if is_used(code) else word_hint(_begins_with_magic(code))
    word = _begins_with_magic(told)
    if word and len(lines) > 1:
        return f"{word!r} is a magic; in a cell of several lines it is written %{word}."
    return None


def name_hint(name: str, code: str) -> str | None:
    """Say what an undefined name is, when it is one that only IPython defines."""
    if name == "get_ipython" or (name and name == _begins_with_magic(code)):
        return word_hint(name)
    return None


def word_hint(word: str) -> str | None:
    """Say what a name is that only IPython knows."""
    if stand_ins.has_ipython() or not (word in WORDS or word == "get_ipython"):
        return None
    words = NEEDED.format(what=f"{word!r} is")
    return f"{words} Without it: {INSTEAD[word]}." if word in INSTEAD else words


def shell() -> Any:
    """Give the session's shell, made now if there is none yet."""
    if place.shell is None:
        place.making_shell = True
        try:
            from forkpy_worker.libraries import shell as room

            place.shell = room.make()
        finally:
            place.making_shell = False
        place.before_cell.append(room.before_cell)
        place.after_cell.append(room.after_cell)
    return place.shell
