"""Look for a text in every byte that a folder keeps."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow.parquet as pq


def files_naming(folder: Path, text: str) -> list[str]:
    """Return the files below a folder that hold a text, as they are or within: Parquet's columns, what gzip packed."""
    return sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and text in _contents(file)
    )


def _contents(file: Path) -> str:
    data = file.read_bytes()
    if data[:4] == b"PAR1":
        return data.decode("latin-1") + repr(pq.ParquetFile(file).read().to_pylist())
    return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("latin-1")
