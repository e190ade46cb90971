"""What could stand at the cursor: names, attributes, keys, imports, paths, magics.

Owns: nothing. Live objects are looked at by `static` and never run; `jedi` sees the code, modules,
functions and plain values, with its own leave to run things taken away.
Runs in: worker, helper thread, also while a cell runs. Imports jedi when it is first needed.
"""

from __future__ import annotations

import builtins
import json
import keyword
import os
import re

from forkpy_worker.base.place import namespace
from forkpy_worker.base.text import clean
from forkpy_worker.libraries import stand_ins
from forkpy_worker.lookup import calls, static

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # text to insert, what it is, signature
    Match: TypeAlias = tuple[str, str, str]

MAX_MATCHES = 500
MAX_LENGTH = 300

_ATTRIBUTE = re.compile(rf"({calls.CHAIN})\s*\.\s*(\w*)$")
# Strings and numbers before the one that is being written: `d["a", 1, "`.
_LITERAL = r"(?:[bBrRuU]{0,2}(?:'[^'\\\n]*'|\"[^\"\\\n]*\")|-?\d+)\s*,\s*"
_KEY = re.compile(
    rf"(?P<chain>{calls.CHAIN})\s*\[\s*\(?\s*(?P<earlier>(?:{_LITERAL})*)"
    r"(?P<kind>[bBuU]?)(?P<quote>['\"])(?P<begun>[^'\"\\\n]*)$"
)
# The same before the quote is there: `d[`, `d[(`, `d["a", `.
_NO_KEY = re.compile(
    rf"(?P<chain>{calls.CHAIN})\s*\[\s*(?P<open>\(?)\s*(?P<earlier>(?:{_LITERAL})*)$"
)
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
    looked_up = found is None
    if found is None:
        engine, found = _by_jedi(code, cursor)
    if found is None:
        engine, found = "namespace", _names(before)
    start, matches = _with_keywords(before, found) if looked_up else found
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
    """Keywords of the call first, then public names."""
    if text.endswith("="):
        return -1, text
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
    """Complete `d["ke` for dicts, `d["a", "ke` where keys are tuples, `rec["fie` for fields."""
    found = _KEY.search(before)
    if found is None:
        return _whole_keys(before)
    if _in_comment_or_string(before[: found.start()]):
        return None
    earlier = _literals(found["earlier"])
    keys = None if earlier is None else _keys_at(found["chain"], len(earlier))
    if keys is None or earlier is None:
        return None
    if _INDEXER.search(found["chain"]):
        earlier = ()
    count = len(earlier)
    if count:
        fitting = [key for key in keys if type(key) is tuple and key[:count] == earlier]
        keys = [key[count] for key in fitting if len(key) > count]
    else:
        keys = [key[0] if type(key) is tuple and key else key for key in keys]
    wanted = bytes if "b" in found["kind"].lower() else str
    quote, prefix = found["quote"], found["begun"]
    texts = {_inside(key) for key in keys if type(key) is wanted}
    closed = [
        (text + quote, "key", "")
        for text in texts
        if text.startswith(prefix) and quote not in text and "\\" not in text
    ]
    return len(before) - len(prefix), closed


def _whole_keys(before: str) -> tuple[int, list[Match]] | None:
    """Complete `d[`, `d[(` and `d["a", ` with keys as code writes them."""
    found = _NO_KEY.search(before)
    if found is None or _in_comment_or_string(before[: found.start()]):
        return None
    earlier = _literals(found["earlier"])
    keys = None if earlier is None else _keys_at(found["chain"], len(earlier))
    if keys is None or earlier is None:
        return None
    count = len(earlier)
    if (count or found["open"]) and not _INDEXER.search(found["chain"]):
        fitting = [key for key in keys if type(key) is tuple and key[:count] == earlier]
        keys = [key[count] for key in fitting if len(key) > count]
    shown = {repr(key) for key in keys if _is_plain(key)}
    matches = [(text, "key", "") for text in shown if len(text) <= MAX_LENGTH]
    return (len(before), matches) if matches else None


def _is_plain(key: Any) -> bool:
    """Whether a key's repr is code that makes it, and runs nothing of the user's."""
    if type(key) is tuple:
        return all(_is_plain(part) for part in key)
    return type(key) in (str, bytes, int, bool, type(None))


def _keys_at(chain: str, count: int) -> list[Any] | None:
    """List the keys of what a chain leads to; `df.loc` has the table's rows, and then columns."""
    indexer = _INDEXER.search(chain)
    if indexer is None:
        return _keys_of(calls.follow(chain))
    table = calls.follow(chain[: indexer.start()])
    columns = _keys_of(table) if type(table).__name__ == "DataFrame" else None
    if columns is None or count == 1:
        return columns
    return list(table.index[:10_000]) if count == 0 else None


_INDEXER = re.compile(r"\.\s*(?:loc|at)\s*$")


def _inside(key: str | bytes) -> str:
    """Give what stands between the quotes of a key."""
    if isinstance(key, bytes):
        return repr(key)[2:-1]
    return key if key.isprintable() else "\\"


def _literals(text: str) -> tuple[Any, ...] | None:
    """Read the parts of a tuple that stand before the one that is being written."""
    import ast

    if not text:
        return ()
    try:
        return tuple(ast.literal_eval(f"({text})"))
    except (SyntaxError, ValueError, TypeError):
        return None


def _keys_of(value: Any) -> list[Any] | None:
    kind = type(value)
    if issubclass(kind, dict):
        return list(dict.keys(value))
    if value is os.environ:
        return list(os.environ)
    library = kind.__module__.partition(".")[0]
    try:
        if library == "numpy":
            return _fields(value)
        if library in ("pandas", "polars") and kind.__name__ == "DataFrame":
            return list(value.columns)[:10_000]
        if library == "pandas" and kind.__name__ == "Series":
            return list(value.index[:10_000])
        if library == "pyarrow" and kind.__name__ == "Table":
            return list(value.column_names)[:10_000]
    except Exception:
        # A version of the library that is built otherwise.
        return None
    return None


def _fields(value: Any) -> list[Any] | None:
    if type(value).__name__ == "NpzFile":
        return list(value.files)
    names = getattr(getattr(value, "dtype", None), "names", None)
    return None if names is None else list(names)


def _with_keywords(before: str, found: tuple[int, list[Match]]) -> tuple[int, list[Match]]:
    """Add the keywords of the call around the cursor: jedi is not shown most living objects."""
    start, names = calls.keywords(before)
    if not names or (found[1] and found[0] != start):
        return found
    return start, [*found[1], *((f"{name}=", "param", "") for name in names)]


def _attributes(before: str) -> tuple[int, list[Match]] | None:
    """Complete `a.b.c` where a, b live."""
    found = _ATTRIBUTE.search(before)
    if found is None or _in_comment_or_string(before[: found.start()]):
        return None
    line = before[: found.start()].rpartition("\n")[2]
    if re.match(r"\s*(import|from)\b", line):
        return None
    value = calls.follow(found[1])
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
    tokens: list[tokenize.TokenInfo] = []
    try:
        tokens.extend(tokenize.generate_tokens(io.StringIO(before).readline))
    except (tokenize.TokenError, SyntaxError) as error:
        # A bracket that is still open is an error too: what came before it counts.
        if "string" in str(error):
            return True
    last = [token for token in tokens if token.string.strip()][-1:]
    if any(token.type == tokenize.COMMENT and token.end == end for token in last):
        return True
    # A quote that nothing closes, up to 3.11.
    return any(
        token.type == tokenize.ERRORTOKEN and token.string in "'\"" and token.end[0] == end[0]
        for token in tokens
    )


def _names(before: str) -> tuple[int, list[Match]]:
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
    _bear_half_files()
    jedi.settings.allow_unsafe_interpreter_executions = False
    jedi.settings.fast_parser = False
    # Else it offers names that begin otherwise than what was written.
    jedi.settings.case_insensitive_completion = False
    _have_a_cache(jedi.settings)
    return jedi.Interpreter(without_magics(code), [static.shown_in_completion()])


def _bear_half_files() -> None:
    """Let jedi parse a file anew whose cached tree cannot be read: others may just be writing it."""
    from importlib import import_module

    cache: Any = import_module("parso.cache")
    load = getattr(cache, "_load_from_file_system", None)
    if load is None or load.__module__ == __name__:
        return

    def load_whole(*args: Any, **options: Any) -> Any:
        try:
            return load(*args, **options)
        except Exception:
            return None

    cache._load_from_file_system = load_whole


def _have_a_cache(settings: Any) -> None:
    """Let jedi keep files elsewhere if the user's cache cannot be written: it fails otherwise."""
    usual = settings.cache_directory
    try:
        os.makedirs(usual, mode=0o700, exist_ok=True)
        if os.access(usual, os.W_OK | os.X_OK):
            return
    except OSError:
        pass
    place = own_cache()
    above = os.path.dirname(place)
    try:
        os.makedirs(above, mode=0o700, exist_ok=True)
        found = os.lstat(above)
        # It reads pickles from there.
        if found.st_uid == os.getuid() and not found.st_mode & 0o022:
            settings.cache_directory = place
    except OSError:
        return


def own_cache() -> str:
    """Give the folder for jedi's cache where the user's own cannot be written."""
    import tempfile

    return os.path.join(tempfile.gettempdir(), f"forkpy-{os.getuid()}", "jedi")


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
    quoted = _in_comment_or_string(code[:cursor])
    for item in found:
        length = item.get_completion_prefix_length()
        prefix = code[cursor - length : cursor]
        in_string = item.complete is not None and not item.name.startswith(prefix)
        text = prefix + item.complete if in_string else item.name_with_symbols
        is_name = item.name.isidentifier() and not in_string and item.type != "param"
        is_name = is_name and item.type != "path"
        if is_name and (quoted or not _exists(item.name, code, cursor - length)):
            continue
        matches.append((text, item.type, ""))
    start = cursor - length
    lives = (start, []) if quoted else _names(code[:cursor])
    if matches and lives[1] and lives[0] == start and not _is_import(code[:cursor]):
        # What jedi was not shown lives all the same.
        known = {text for text, _, _ in matches}
        hidden = set(namespace)
        matches += [match for match in lives[1] if match[0] in hidden and match[0] not in known]
    if not matches:
        return "jedi", lives if lives[1] and not _is_import(code[:cursor]) else (cursor, [])
    return "jedi", (start, matches)


def _exists(name: str, code: str, start: int) -> bool:
    """Whether a name that stands alone is one: jedi also knows what only type checkers know."""
    before = code[:start].rstrip(" \t")
    if before.endswith(".") or _is_import(code[:start]):
        return True
    if name in namespace or name in builtins.__dict__ or name in _KEYWORDS:
        return True
    return (
        re.search(rf"(?<![\w.]){re.escape(name)}\b", code[:start] + " " + code[start + 1 :])
        is not None
    )


_KEYWORDS = frozenset((*keyword.kwlist, *keyword.softkwlist))


def _is_import(before: str) -> bool:
    return re.match(r"\s*(import|from)\b", before.rpartition("\n")[2]) is not None
