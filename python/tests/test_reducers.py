"""Caches of functions, and views of arrays, in saved sessions."""

import pathlib

import pytest

from forkpy_worker.base import place
from forkpy_worker.cell import run
from forkpy_worker.variables import state

pytest.importorskip("cloudpickle")


def again(tmp_path: pathlib.Path, code: str) -> dict:
    place.namespace.clear()
    place.namespace.update(__name__="__main__")
    status, *_, error, _, _, _, _ = run.run_cell(600, code)
    assert status == "ok", error
    path = str(tmp_path / "state")
    saved, skipped, _ = state.save(path)
    assert skipped == [], saved
    place.namespace.clear()
    assert state.load(path)[1] == []
    return place.namespace


def test_functions_keep_that_they_have_a_cache(tmp_path: pathlib.Path) -> None:
    code = (
        "import functools\n@functools.lru_cache(maxsize=5, typed=True)\ndef f(n):\n    return n\n"
        "f.note = 'kept'\nf(1)\n"
        "class K:\n    @functools.cached_property\n    def v(self):\n        return 7\n"
        "    @functools.cache\n    def m(self):\n        return 8\nk = K()"
    )
    space = again(tmp_path, code)
    assert (
        space["f"].cache_parameters() == {"maxsize": 5, "typed": True} and space["f"].note == "kept"
    )
    assert space["f"].cache_info().currsize == 0 and space["f"](3) == 3
    assert (space["k"].v, space["k"].m()) == (7, 8)


def test_views_stay_views(tmp_path: pathlib.Path) -> None:
    numpy = pytest.importorskip("numpy")
    code = (
        "import numpy as np\na = np.arange(12).reshape(3, 4).copy()\nb = a[1:, ::-2]\nc = a.T\nd = a[:1]\n"
        "d.flags.writeable = False\nf = np.asfortranarray(a)\ng = f[1]\nalone = np.arange(9)[2:5]"
    )
    space = again(tmp_path, code)
    space["a"][2, 3] = 99
    assert space["b"].tolist() == [[7, 5], [99, 9]] and space["c"][3, 2] == 99
    assert not space["d"].flags.writeable and numpy.shares_memory(space["a"], space["d"])
    space["g"][0] = -1
    assert space["f"][1, 0] == -1 and space["alone"].tolist() == [2, 3, 4]


def test_views_that_become_copies_are_named(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("numpy")
    place.notices.clear()
    again(tmp_path, "import numpy as np\na = np.array([object, None])\nb = a[:1]")
    assert place.notices == [
        "b: share memory with other variables and are saved as copies of their own."
    ]
    place.notices.clear()
