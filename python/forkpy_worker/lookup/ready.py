"""What makes jedi's first answer quick: its syntax trees of Python's own stubs, which it keeps on disk.

Owns: nothing. jedi parses the stubs of the builtins when it is first used on a machine, for a second or
two; afterwards it reads them from its cache. `is_cold` is a look at that cache, `warm` fills it.
Runs in: zygote (`is_cold`, which may import no jedi: that stalls forks), a child of it that does
nothing else and ends (`warm`).
"""

from __future__ import annotations

import os
import sys

# What completion and inspection ask first.
_FIRST = ("impo", "import os\nos.pa", "open(", "'a'.jo", "from collections im")


def is_cold() -> bool:
    """Whether jedi is there and has not read the builtins' stubs on this machine yet."""
    import glob
    import hashlib
    from importlib.util import find_spec

    spec = find_spec("jedi")
    if spec is None or not spec.submodule_search_locations:
        return False
    if _lock_of_coming(spec.submodule_search_locations[0]):
        return True
    typeshed = os.path.join(spec.submodule_search_locations[0], "third_party", "typeshed", "stdlib")
    # In the folder `3` in older versions of jedi.
    stubs = [os.path.join(typeshed, "builtins.pyi"), os.path.join(typeshed, "3", "builtins.pyi")]
    names = [
        f"*-{hashlib.sha256(stub.encode()).hexdigest()}.pkl"
        for stub in stubs
        if os.path.isfile(stub)
    ]
    places = [os.path.join(glob.escape(place), "*", name) for place in _caches() for name in names]
    # Of another layout nothing is known here.
    return bool(places) and not any(glob.glob(place) for place in places)


def _lock_of_coming(jedi: str) -> str | None:
    """What is locked while jedi's stubs are unpacked, behind the first start of a bundle's single file."""
    lock = f"{sys.base_prefix}.lock"
    whole = os.path.join(sys.base_prefix, "lib", "COMPLETE")
    ours = jedi.startswith(sys.base_prefix + os.sep)
    return lock if ours and not os.path.exists(whole) and os.path.exists(lock) else None


def _caches() -> list[str]:
    from forkpy_worker.lookup import completion

    usual = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "jedi")
    return [usual, completion.own_cache()]


def warm() -> None:
    """Use jedi as the first questions of a session will, when its stubs are there."""
    from importlib.util import find_spec

    from forkpy_worker.lookup import completion

    spec = find_spec("jedi")
    places = spec.submodule_search_locations if spec else None
    if places and (lock := _lock_of_coming(places[0])):
        import fcntl

        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    for code in _FIRST:
        view = completion.interpreter(code)
        if view is None:
            return
        line, column = completion.position(code, len(code))
        view.complete(line, column)
        view.get_signatures(line, column)
