"""What could stand at the cursor: names, attributes, keys, imports, paths, magics.

Owns: nothing. Live objects are looked at by `static` and never run; `jedi` sees the code, modules,
functions and plain values, with its own leave to run things taken away.
Runs in: worker, helper thread, also while a cell runs. Imports jedi when it is first needed.
"""

from __future__ import annotations

import json
import keyword
import os
import re

from forkpy_worker.base.place import namespace
from forkpy_worker.base.text import clean
from forkpy_worker.libraries import stand_ins
from forkpy_worker.lookup import static

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # text to insert, what it is, signature
    Match: TypeAlias = tuple[str, str, str]

MAX_MATCHES = 500
MAX_LENGTH = 300

_ATTRIBUTE = re.compile(r"(?<![\w.\])}\"'])((?:[^\W\d]\w*\s*\.\s*)+)(\w*)$")
_KEY = re.compile(r"(?<![\w.\])])((?:[^\W\d]\w*\s*\.\s*)*[^\W\d]\w*)\s*\[\s*(['\"])([^'\"\\\n]*)$")
_MAGIC = re.compile(r"^[ \t]*(%{1,2})(\w*)$")
# The magics that IPython has for a kernel of this kind.
_LINE_MAGICS = (
    *("alias", "autoreload", "bookmark", "cd", "conda", "config", "debug", "dhist", "dirs", "env"),
    *("history", "load", "load_ext", "logstart", "logstop", "lsmagic", "macro", "matplotlib"),
    *("pdb", "pdef", "pdoc", "pfile", "pinfo", "pinfo2", "pip", "popd", "pprint", "precision"),
    *("prun", "psearch", "psource", "pushd", "pwd", "pycat", "rehashx", "reload_ext", "rerun"),
    *("reset", "run", "save", "set_env", "sx", "system", "tb", "time", "timeit", "who", "who_ls"),
    *("whos", "xdel", "xmode"),
)
_CELL_MAGICS = (
    *("bash", "capture", "html", "javascript", "latex", "markdown", "perl", "prun", "pypy"),
    *("python", "python3", "ruby", "script", "sh", "svg", "sx", "system", "time", "timeit"),
    *("writefile",),
)


def complete(code: str, cursor: int) -> str:
    """Answer a request for completion, as JSON."""
    before = code[:cursor]
    found = _magics(before) or _keys(before) or _attributes(before)
    engine = "namespace"
    if found is None:
        engine, found = _by_jedi(code, cursor)
    if found is None:
        engine, found = "namespace", _names(before)
    start, matches = found
    unique = {clean(text)[:MAX_LENGTH]: (kind, signature) for text, kind, signature in matches}
    shown = sorted(unique, key=_rank)[:MAX_MATCHES]
    types = [
        {"start": start, "end": cursor, "text": text, "type": unique[text][0]} for text in shown
    ]
    metadata: dict[str, Any] = {"_jupyter_types_experimental": types, "engine": engine}
    if len(unique) > len(shown):
        metadata["left_out"] = len(unique) - len(shown)
    if not _has_jedi:
        metadata["hint"] = NO_JEDI
    return json.dumps(
        {"matches": shown, "cursor_start": start, "cursor_end": cursor, "metadata": metadata}
    )


NO_JEDI = (
    "jedi is not in the session's environment, so that only names and attributes of living objects "
    "are completed; the tool install_dependencies installs it, packages ['jedi']"
)
_has_jedi = True


def _rank(text: str) -> tuple[int, str]:
    """Public names first."""
    return (2 if text.startswith("__") else 1 if text.startswith("_") else 0), text


def _magics(before: str) -> tuple[int, list[Match]] | None:
    line = before.rpartition("\n")[2]
    found = _MAGIC.match(line)
    if found is None or ("\n" in before.strip() and found[1] == "%%"):
        return None
    if not stand_ins.has_ipython():
        return None
    names = [f"%%{name}" for name in _CELL_MAGICS if f"%%{name}".startswith(found[0].strip())]
    if found[1] == "%":
        names += [f"%{name}" for name in _LINE_MAGICS if name.startswith(found[2])]
    return len(before) - len(found[1] + found[2]), [(name, "magic", "") for name in names]


def _keys(before: str) -> tuple[int, list[Match]] | None:
    """Complete `d["ke` for dicts, and for tables by their columns."""
    found = _KEY.search(before)
    if found is None or _in_comment_or_string(before[: found.start()]):
        return None
    value = static.path([part.strip() for part in found[1].split(".")])
    keys = _keys_of(value)
    if keys is None:
        return None
    quote, prefix = found[2], found[3]
    matches = [
        key for key in keys if key.startswith(prefix) and quote not in key and key.isprintable()
    ]
    closed = [(key + quote, "key", "") for key in matches if "\\" not in key]
    return len(before) - len(prefix), closed


def _keys_of(value: Any) -> list[str] | None:
    if type(value) is dict:
        return [key for key in list(value) if type(key) is str]
    kind = type(value)
    if kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] in ("pandas", "polars"):
        return [name for name in list(value.columns)[:10_000] if type(name) is str]
    return None


def _attributes(before: str) -> tuple[int, list[Match]] | None:
    """Complete `a.b.c` where a, b live."""
    found = _ATTRIBUTE.search(before)
    if found is None or _in_comment_or_string(before[: found.start()]):
        return None
    line = before[: found.start()].rpartition("\n")[2]
    if re.match(r"\s*(import|from)\b", line):
        return None
    value = static.path([part.strip() for part in found[1].split(".")[:-1]])
    if value is static.MISSING or static.is_a(value, (property, *_DESCRIPTORS)):
        return None
    prefix = found[2]
    matches = [
        (name, static.word(item), "")
        for name, item in static.attributes(value).items()
        if name.startswith(prefix) and name.isidentifier()
    ]
    return len(before) - len(prefix), matches


_DESCRIPTORS = (type(int.real), type(type.__dict__["__dict__"]))


def _in_comment_or_string(before: str) -> bool:
    """A glance at what leads to the cursor: is it within a comment or a string?"""
    import io
    import tokenize

    end = before.count("\n") + 1, len(before.rpartition("\n")[2])
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(before).readline))
    except (tokenize.TokenError, SyntaxError) as error:
        return "string" in str(error)
    last = [token for token in tokens if token.string.strip()][-1:]
    return any(
        (token.type == tokenize.COMMENT and token.end == end)
        or (token.type == tokenize.ERRORTOKEN and token.string in "'\"")
        for token in last
    )


def _names(before: str) -> tuple[int, list[Match]]:
    import builtins

    found = re.search(r"(?<![\w.])[^\W\d]\w*$", before)
    if found is None:
        return len(before), []
    names = {**builtins.__dict__, **namespace}
    matches = [
        (name, static.word(value), "")
        for name, value in names.items()
        if type(name) is str and name.startswith(found[0])
    ]
    matches += [(word, "keyword", "") for word in keyword.kwlist if word.startswith(found[0])]
    return found.start(), matches


def interpreter(code: str) -> Any:
    """Make jedi's view of the code and the harmless part of the namespace; None without jedi."""
    global _has_jedi
    try:
        import jedi
    except ImportError:
        _has_jedi = False
        return None
    _has_jedi = True
    jedi.settings.allow_unsafe_interpreter_executions = False
    jedi.settings.fast_parser = False
    _have_a_cache(jedi.settings)
    return jedi.Interpreter(without_magics(code), [static.shown_in_completion()])


def _have_a_cache(settings: Any) -> None:
    """Let jedi keep files elsewhere if the user's cache cannot be written: it fails otherwise."""
    usual = settings.cache_directory
    try:
        os.makedirs(usual, mode=0o700, exist_ok=True)
        if os.access(usual, os.W_OK | os.X_OK):
            return
    except OSError:
        pass
    import tempfile

    place = os.path.join(tempfile.gettempdir(), f"forkpy-{os.getuid()}")
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        found = os.lstat(place)
        # It reads pickles from there.
        if found.st_uid == os.getuid() and not found.st_mode & 0o022:
            settings.cache_directory = os.path.join(place, "jedi")
    except OSError:
        return


def without_magics(code: str) -> str:
    """Blank out what only IPython understands, so that columns stay what they were."""
    lines = code.split("\n")
    for number, line in enumerate(lines):
        found = re.match(r"\s*(%%?\w+|!+)", line)
        if found is not None:
            rest = line[found.end() :] if line.lstrip().startswith("%") and number else ""
            lines[number] = " " * (len(line) - len(rest)) + rest if rest else "#" + line[1:]
    return "\n".join(lines)


def position(code: str, cursor: int) -> tuple[int, int]:
    """Turn a position in characters into a line, from 1, and a column."""
    before = code[:cursor]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1)


def _by_jedi(code: str, cursor: int) -> tuple[str, tuple[int, list[Match]] | None]:
    view = interpreter(code)
    if view is None:
        return "namespace", None
    line, column = position(code, cursor)
    try:
        found = view.complete(line, column)
    except Exception:
        # Of what it was not made for, it fails in many ways.
        return "namespace", None
    matches: list[Match] = []
    length = 0
    for item in found:
        length = item.get_completion_prefix_length()
        prefix = code[cursor - length : cursor]
        in_string = item.complete is not None and not item.name.startswith(prefix)
        text = prefix + item.complete if in_string else item.name_with_symbols
        matches.append((text, item.type, ""))
    start = cursor - length
    lives = _names(code[:cursor])
    if matches and lives[1] and lives[0] == start and not _is_import(code[:cursor]):
        # What jedi was not shown lives all the same.
        known = {text for text, _, _ in matches}
        hidden = set(namespace)
        matches += [match for match in lives[1] if match[0] in hidden and match[0] not in known]
    if not matches:
        return "jedi", lives if lives[1] and not _is_import(code[:cursor]) else (cursor, [])
    return "jedi", (start, matches)


def _is_import(before: str) -> bool:
    return re.match(r"\s*(import|from)\b", before.rpartition("\n")[2]) is not None
