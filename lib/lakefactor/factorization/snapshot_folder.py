"""The folder that snapshots live in: a local one, or an object store that pyarrow knows.

Every path is relative to the root and stays under it: no `..`, no links.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyarrow import fs

from lakefactor.errors import SnapshotError

CHUNK_BYTES = 4 << 20
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)


class Hashed:
    """A file being written that knows its length and SHA-256."""

    def __init__(self, sink: pa.NativeFile) -> None:
        self._sink = sink
        self.count = 0
        self.sha256 = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        """Write and count."""
        view = memoryview(data)
        self._sink.write(view)
        self.count += view.nbytes
        self.sha256.update(view)
        return view.nbytes

    def flush(self) -> None:
        """Do nothing: closing the file flushes it."""


@dataclass(frozen=True)
class Folder:
    """A folder by its path or URI; opened where it is used, so it travels to the ranks.

    Parameters
    ----------
    root : str
        A local path, or a URI such as ``s3://bucket/lake/_snapshots``.
    """

    root: str

    @cached_property
    def _place(self) -> tuple[fs.FileSystem, str]:
        """Return the file system and the root's path in it."""
        if ":" not in self.root:
            return fs.LocalFileSystem(), os.path.realpath(self.root)
        uri = self.root.replace("s3a://", "s3://", 1).replace("dbfs:/", "file:/dbfs/", 1)
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, os.path.realpath(path) if _is_local(filesystem) else path.rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root}

    def open(self) -> None:
        """Raise OSError or ValueError unless the folder's file system can be used."""
        self._place[0].get_file_info(self._place[1])

    def children(self, path: str) -> list[str]:
        """Return the names of the folders in a folder; none where there is no such folder. Links are left out."""
        where = self._resolve(path) if path else self._place[1]
        found = self._place[0].get_file_info(fs.FileSelector(where, allow_not_found=True))
        names = [
            info.base_name for info in found if info.type == fs.FileType.Directory and _PATH.fullmatch(info.base_name)
        ]
        return [name for name in names if not self._is_link(f"{path}/{name}".lstrip("/"))]

    def exists(self, path: str) -> bool:
        """Tell whether there is anything of that name."""
        return self._place[0].get_file_info(f"{self._place[1]}/{path}").type != fs.FileType.NotFound

    def size(self, path: str) -> int:
        """Return the bytes of a plain file, or -1 where there is none.

        Raises
        ------
        SnapshotError
            It is a link.
        """
        info = self._place[0].get_file_info(self._resolve(path))
        return info.size if info.type == fs.FileType.File else -1

    def read_bytes(self, path: str) -> bytes:
        """Return a small file."""
        with self.reading(path) as source:
            return source.read()

    def reading(self, path: str) -> pa.NativeFile:
        """Open a file at any position."""
        where = self._resolve(path)
        if _is_local(self._place[0]):
            return pa.memory_map(where)
        return self._place[0].open_input_file(where)

    def verify(self, path: str, n_bytes: int, sha256: str) -> None:
        """Raise SnapshotError unless a file has this length and SHA-256."""
        where = self._resolve(path)
        digest, count = hashlib.sha256(), 0
        try:
            with self._place[0].open_input_stream(where) as source:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    count += len(chunk)
        except OSError as error:
            raise SnapshotError(f"snapshot file {path} is refused: it cannot be read ({error})") from None
        if (count, digest.hexdigest()) != (n_bytes, sha256):
            raise SnapshotError(f"snapshot file {path} is refused: its checksum does not match")

    @contextmanager
    def writing(self, path: str) -> Iterator[Hashed]:
        """Write a file that appears whole or not at all."""
        filesystem, where = self._place[0], self._resolve(path)
        # A put to an object store is atomic by itself, and a move there would copy.
        local = _is_local(filesystem)
        target = f"{where}.{uuid.uuid4().hex}.tmp" if local else where
        if local:
            filesystem.create_dir(os.path.dirname(where), recursive=True)
        try:
            with filesystem.open_output_stream(target) as sink:
                yield Hashed(sink)
            if local:
                os.replace(target, where)
        except BaseException:
            if local and os.path.exists(target):
                os.unlink(target)
            raise

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a small file that appears whole or not at all."""
        with self.writing(path) as sink:
            sink.write(data)

    def remove(self, path: str) -> None:
        """Remove a folder with all that is in it, if it is there; a link in its place is left alone."""
        where = self._resolve(path)
        if self._place[0].get_file_info(where).type == fs.FileType.Directory:
            self._place[0].delete_dir(where)

    def remove_file(self, path: str) -> None:
        """Remove a plain file, if it is there."""
        where = self._resolve(path)
        if self._place[0].get_file_info(where).type == fs.FileType.File:
            self._place[0].delete_file(where)

    def _is_link(self, path: str) -> bool:
        where = f"{self._place[1]}/{path}"
        return _is_local(self._place[0]) and os.path.realpath(where) != where

    def _resolve(self, path: str) -> str:
        """Return the path in the file system.

        Raises
        ------
        SnapshotError
            It would leave the root, or goes through a link.
        """
        if not _PATH.fullmatch(path):
            raise SnapshotError(f"snapshot file {path!r} is refused: it is not a plain path")
        if self._is_link(path):
            raise SnapshotError(f"snapshot file {path} is refused: it is a link, or lies behind one")
        return f"{self._place[1]}/{path}"


def _is_local(filesystem: fs.FileSystem) -> bool:
    return isinstance(filesystem, fs.LocalFileSystem)
