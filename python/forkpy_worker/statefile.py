"""The file that carries a session's variables over a restart.

Owns: its layout. Knows nothing of pickles: a group's content is bytes to it.
Runs in: worker main thread, between cells.

Layout, numbers little-endian:

    magic "forkpy state\n" · u16 version
    the groups' bytes, one after the other, possibly with dead bytes between
    index: JSON {"modules": {name: module}, "groups": [[[name, ...], offset, length], ...]}
    trailer: u64 offset of the index · u32 its length · magic "end\n"

The trailer comes last, so a file that was cut short has none and is refused. The file appears under
its name only when complete.
"""

from __future__ import annotations

import json
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import BinaryIO

MAGIC = b"forkpy state\n"
VERSION = 1
_END = b"end\n"
_HEAD = struct.Struct(f"<{len(MAGIC)}sH")
_TRAILER = struct.Struct(f"<QI{len(_END)}s")


class Writer:
    """A state file being written; leaving the `with` block without `finish` removes it."""

    def __init__(self, path: str) -> None:
        """Open it for the owner's eyes only, beside the place where it will appear."""
        self._path = path
        self._draft = f"{path}.{os.getpid()}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._groups: dict[tuple[str, ...], tuple[int, int]] = {}
        self._finished = False
        self.file: BinaryIO = open(os.open(self._draft, flags, 0o600), "wb")  # noqa: SIM115
        os.fchmod(self.file.fileno(), 0o600)
        self.file.write(_HEAD.pack(MAGIC, VERSION))

    def __enter__(self) -> Writer:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it, and leave nothing half-written behind."""
        try:
            self.file.close()
        finally:
            if not self._finished:
                os.unlink(self._draft)

    def rewind(self, offset: int) -> None:
        """Forget what was written from an offset on."""
        self.file.seek(offset)
        self.file.truncate()

    def add(self, names: list[str], offset: int) -> None:
        """Enter what was written since `offset` as the group of these names."""
        self._groups[tuple(names)] = (offset, self.file.tell() - offset)

    def drop(self, names: list[str]) -> None:
        """Take a group out again; its bytes stay, dead."""
        del self._groups[tuple(names)]

    def finish(self, modules: dict[str, str]) -> None:
        """Write index and trailer and let the file appear."""
        groups = [[list(names), *place] for names, place in self._groups.items()]
        index = json.dumps({"modules": modules, "groups": groups}).encode()
        offset = self.file.tell()
        self.file.write(index)
        self.file.write(_TRAILER.pack(offset, len(index), _END))
        self.file.close()
        os.replace(self._draft, self._path)
        self._finished = True


class Reader:
    """A state file being read; ValueError at once when it is none, or not whole."""

    def __init__(self, path: str) -> None:
        """Open it and check it."""
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115
        try:
            self._read_index(path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Reader:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self._file.close()

    def groups(self) -> Iterator[tuple[list[str], BinaryIO]]:
        """Give the names of each group, and the file standing where its bytes begin."""
        for names, offset, _length in self._groups:
            self._file.seek(offset)
            yield names, self._file

    def _read_index(self, path: str) -> None:
        size = os.fstat(self._file.fileno()).st_size
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size or not head.startswith(MAGIC):
            raise ValueError(f"not a saved session state: {path}")
        version = _HEAD.unpack(head)[1]
        if version != VERSION:
            raise ValueError(f"saved session state of version {version}, not {VERSION}: {path}")
        try:
            index = json.loads(self._index_bytes(size))
            self.modules: dict[str, str] = dict(index["modules"])
            self._groups = [_checked(group, size) for group in index["groups"]]
        except (struct.error, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"saved session state is incomplete or damaged: {path}") from error

    def _index_bytes(self, size: int) -> bytes:
        self._file.seek(max(_HEAD.size, size - _TRAILER.size))
        offset, length, end = _TRAILER.unpack(self._file.read())
        if end != _END or offset + length + _TRAILER.size != size:
            raise ValueError("trailer does not fit")
        self._file.seek(offset)
        return self._file.read(length)


def _checked(group: list[list[str] | int], size: int) -> tuple[list[str], int, int]:
    names, offset, length = group
    if not (isinstance(names, list) and isinstance(offset, int) and isinstance(length, int)):
        raise TypeError("group of the wrong shape")
    if offset < _HEAD.size or length < 0 or offset + length > size:
        raise ValueError("group outside the file")
    return names, offset, length
