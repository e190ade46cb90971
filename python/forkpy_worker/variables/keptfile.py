"""A folder that keeps a session's variables for the case that its worker dies.

Owns: the folder's layout, and giving way: a call that waits ends the writing. Knows nothing of pickles.
Runs in: worker main thread, between cells.

What is large is written once and found again by its digest: an array that did not change is not
written anew. The rest goes into one file for each time. `index.json` comes last and names them all,
so what an interrupted or killed writer leaves is not looked at, but for the large pieces, which are
of use the next time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import select

from forkpy_worker.variables.statefile import PYTHON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

INDEX = "index.json"
# From this size on a piece is a file of its own.
LARGE = 1 << 20
# Bytes between two looks at whether a call waits.
_STEP = 4 << 20


class GaveWay(BaseException):
    """A call waits. No `Exception`, for nothing between may catch it."""


class Writer:
    """Takes pickles as `statefile.Writer` does."""

    def __init__(self, folder: str, stop: int, limit: int) -> None:
        """Begin; `stop` is a descriptor that is closed at its other end when a call waits."""
        os.makedirs(folder, mode=0o700, exist_ok=True)
        # The cells that the code in the pickles comes from.
        self.sources: dict[str, str] = {}
        self.file = _Pieces(folder, stop, limit)
        self._folder = folder
        self._groups: dict[tuple[str, ...], list[_Piece]] = {}

    def rewind(self, offset: int) -> None:
        """Forget what was written from an offset on."""
        self.file.rewind(offset)

    def add(self, names: list[str], offset: int) -> None:
        """Enter what was written since `offset` as the group of these names."""
        self._groups[tuple(names)] = self.file.since(offset)

    def drop(self, names: list[str]) -> None:
        """Take a group out again."""
        del self._groups[tuple(names)]

    def finish(self, modules: dict[str, str], pickler: str) -> None:
        """Let the index appear, and remove what it does not name."""
        small = self.file.finish()
        index = {
            "python": PYTHON,
            "pickler": pickler,
            "modules": modules,
            "sources": self.sources,
            "small": small,
            "groups": [[list(names), pieces] for names, pieces in self._groups.items()],
        }
        draft = os.path.join(self._folder, f"{INDEX}.part")
        with _private(draft) as file:
            file.write(json.dumps(index).encode())
        os.replace(draft, os.path.join(self._folder, INDEX))
        named = {piece[0] for pieces in self._groups.values() for piece in pieces}
        for name in os.listdir(self._folder):
            if name not in named and name not in (INDEX, small[0]):
                os.unlink(os.path.join(self._folder, name))

    def close(self) -> None:
        """Close its file."""
        self.file.close()


if TYPE_CHECKING:
    # Name of a file (empty: the one for small pieces), offset and length in it.
    from typing import TypeAlias

    _Piece: TypeAlias = tuple[str, int, int]


class _Pieces:
    """What the pickler writes to."""

    def __init__(self, folder: str, stop: int, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._poll = select.poll()
        self._poll.register(stop, 0)
        self._pieces: list[_Piece] = []
        self._size = 0
        # Nothing is added to the last piece: a group ends there.
        self._closed = True
        self._digest = hashlib.sha256()
        self._small = _private(os.path.join(folder, "small.part"))

    def _give_way(self) -> None:
        if self._poll.poll(0):
            raise GaveWay

    def tell(self) -> int:
        """Give the number of bytes so far; what comes then is a piece of its own."""
        self._give_way()
        self._closed = True
        return self._size

    def write(self, data: Any) -> int:
        """Add bytes."""
        view = memoryview(data).cast("B")
        if self._size + view.nbytes > self._limit:
            raise pickle.PicklingError("it is too large to be kept (--checkpoint-auto-memory)")
        self._give_way()
        if view.nbytes >= LARGE:
            self._pieces.append((self._large(view), 0, view.nbytes))
            self._closed = True
        elif view.nbytes:
            offset = self._small.tell()
            self._small.write(view)
            self._digest.update(view)
            if self._closed:
                self._pieces.append(("", offset, view.nbytes))
            else:
                name, begin, length = self._pieces[-1]
                self._pieces[-1] = (name, begin, length + view.nbytes)
            self._closed = False
        self._size += view.nbytes
        return view.nbytes

    def _large(self, view: memoryview) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks(view):
            digest.update(chunk)
        name = digest.hexdigest()
        place = os.path.join(self._folder, name)
        if os.path.exists(place):
            return name
        # Of the bytes that are written: a thread may change them meanwhile.
        digest = hashlib.sha256()
        with _private(f"{place}.part") as file:
            for chunk in self._chunks(view):
                copy = bytes(chunk)
                digest.update(copy)
                file.write(copy)
        name = digest.hexdigest()
        os.replace(f"{place}.part", os.path.join(self._folder, name))
        return name

    def _chunks(self, view: memoryview) -> Iterator[memoryview]:
        for offset in range(0, view.nbytes, _STEP):
            self._give_way()
            yield view[offset : offset + _STEP]

    def rewind(self, offset: int) -> None:
        """Forget what came after an offset that `tell` has given. Its bytes stay, and nothing names them."""
        while self._size > offset:
            self._size -= self._pieces.pop()[2]
        self._closed = True

    def since(self, offset: int) -> list[_Piece]:
        """Give the pieces after an offset that `tell` has given."""
        found: list[_Piece] = []
        size = self._size
        for piece in reversed(self._pieces):
            if size <= offset:
                break
            size -= piece[2]
            found.insert(0, piece)
        return found

    def finish(self) -> tuple[str, str]:
        """Name the file with the small pieces, and its digest."""
        self._small.close()
        digest = self._digest.hexdigest()
        name = f"small-{digest}"
        os.replace(os.path.join(self._folder, "small.part"), os.path.join(self._folder, name))
        return name, digest

    def close(self) -> None:
        self._small.close()


def _private(path: str) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    return open(os.open(path, flags, 0o600), "wb")


class Reader:
    """Gives back what a `Writer` has written; ValueError where it is not whole."""

    def __init__(self, folder: str) -> None:
        """Read the index and the small pieces."""
        self._folder = folder
        try:
            with open(os.path.join(folder, INDEX), "rb") as file:
                index = json.loads(file.read())
            self.modules: dict[str, str] = dict(index["modules"])
            self.sources: dict[str, str] = dict(index["sources"])
            name, digest = index["small"]
            self._small = self._read(name, digest)
            self._groups: list[tuple[list[str], list[_Piece]]] = index["groups"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"what was kept of it is incomplete or damaged: {error}") from error

    def groups(self) -> Iterator[tuple[list[str], BinaryIO]]:
        """Give the names of each group, and a file with its bytes."""
        for names, pieces in self._groups:
            yield names, _Joined(self, pieces)

    def joined(self, pieces: list[_Piece]) -> bytes:
        """Give the pieces of a group, one after the other."""
        return b"".join([self._piece(*piece) for piece in pieces])

    def _piece(self, name: str, offset: int, length: int) -> memoryview:
        source = memoryview(self._read(name, name) if name else self._small)
        return source[offset : offset + length]

    def _read(self, name: str, digest: str) -> bytes:
        with open(os.path.join(self._folder, name), "rb") as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("a piece is not as it was written")
        return content


class _Joined(io.BytesIO):
    """The bytes of a group, read when the first of them is wanted: a group fails alone."""

    def __init__(self, reader: Reader, pieces: list[_Piece]) -> None:
        super().__init__()
        self._reader, self._pieces = reader, pieces

    def _fill(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces:
            super().write(self._reader.joined(pieces))
            self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        self._fill()
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        self._fill()
        return super().readline(size)

    def readinto(self, buffer: Any, /) -> int:
        self._fill()
        return super().readinto(buffer)
