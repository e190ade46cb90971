"""The file that carries a session's variables to another process, or to another day.

Owns: its layout. Knows nothing of pickles: a group's content is bytes to it.
Runs in: worker main thread, between cells.

Layout, numbers little-endian:

    magic "forkpy state\n" · u16 version
    the groups' bytes, one after the other, possibly with dead bytes between
    index: JSON {"python": "3.11", "pickler": "cloudpickle 3.1", "modules": {name: module},
                 "groups": [[[name, ...], offset, length, sha256], ...],
             "sources": {name of a cell: its text}}
    trailer: u64 offset of the index · u32 its length · sha256 of the index · magic "end\n"

The trailer comes last, so a file that was cut short has none and is refused. The file appears under
its name only when complete, and every byte of it that is read is checked before any is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, BinaryIO

MAGIC = b"forkpy state\n"
VERSION = 2
_END = b"end\n"
# Pickled code is of one version of Python.
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
_HEAD = struct.Struct(f"<{len(MAGIC)}sH")
_TRAILER = struct.Struct(f"<QI32s{len(_END)}s")
_CHUNK = 1 << 20


class Writer:
    """A state file being written; leaving the `with` block without `finish` removes it."""

    def __init__(self, path: str) -> None:
        """Open it for the owner's eyes only, beside the place where it will appear."""
        self._path = path
        self._draft = f"{path}.{os.getpid()}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._groups: dict[tuple[str, ...], tuple[int, int]] = {}
        self._finished = False
        # The cells that the code in the groups comes from.
        self.sources: dict[str, str] = {}
        self.file: BinaryIO = open(os.open(self._draft, flags, 0o600), "w+b")  # noqa: SIM115
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

    def finish(self, modules: dict[str, str], pickler: str) -> None:
        """Write index and trailer and let the file appear."""
        offset = self.file.tell()
        groups = [
            [list(names), *place, _digest(self.file, *place).hexdigest()]
            for names, place in self._groups.items()
        ]
        content = {
            "python": PYTHON,
            "pickler": pickler,
            "modules": modules,
            "groups": groups,
            "sources": self.sources,
        }
        index = json.dumps(content).encode()
        self.file.seek(offset)
        self.file.write(index)
        self.file.write(_TRAILER.pack(offset, len(index), hashlib.sha256(index).digest(), _END))
        self.file.close()
        os.replace(self._draft, self._path)
        self._finished = True


class Reader:
    """A state file being read; ValueError at once when it is none, or not whole."""

    def __init__(self, path: str) -> None:
        """Open it and check all of it."""
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115
        try:
            self._read_index()
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
        for names, offset, _length, _digest in self._groups:
            self._file.seek(offset)
            yield names, self._file

    def _read_index(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size or not head.startswith(MAGIC):
            raise ValueError("it is no saved session state")
        version = _HEAD.unpack(head)[1]
        if version != VERSION:
            raise ValueError(
                f"it is a saved session state of format {version}, and this is {VERSION}"
            )
        try:
            index = json.loads(self._index_bytes(size))
            python = str(index["python"])
            self.modules: dict[str, str] = dict(index["modules"])
            # Not in files of earlier versions.
            texts = dict(index.get("sources", {}))
            self.sources = {str(name): str(text) for name, text in texts.items()}
            self._groups = [_checked(group, size) for group in index["groups"]]
            for _names, offset, length, digest in self._groups:
                if _digest(self._file, offset, length).hexdigest() != digest:
                    raise ValueError("a group is not as it was written")
        except (struct.error, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError("it is incomplete or damaged") from error
        if python != PYTHON:
            raise ValueError(f"it was saved by Python {python}, and this session has {PYTHON}")

    def _index_bytes(self, size: int) -> bytes:
        self._file.seek(max(_HEAD.size, size - _TRAILER.size))
        offset, length, digest, end = _TRAILER.unpack(self._file.read())
        if end != _END or offset + length + _TRAILER.size != size:
            raise ValueError("trailer does not fit")
        self._file.seek(offset)
        index = self._file.read(length)
        if hashlib.sha256(index).digest() != digest:
            raise ValueError("index is not as it was written")
        return index


def _digest(file: BinaryIO, offset: int, length: int) -> Any:
    digest = hashlib.sha256()
    file.seek(offset)
    while length:
        chunk = file.read(min(length, _CHUNK))
        if not chunk:
            raise ValueError("group cut short")
        digest.update(chunk)
        length -= len(chunk)
    return digest


def _checked(group: list[Any], size: int) -> tuple[list[str], int, int, str]:
    names, offset, length, digest = group
    if not (isinstance(names, list) and isinstance(offset, int) and isinstance(length, int)):
        raise TypeError("group of the wrong shape")
    if offset < _HEAD.size or length < 0 or offset + length > size:
        raise ValueError("group outside the file")
    return names, offset, length, digest
