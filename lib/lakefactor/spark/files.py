"""The files that an ingest is asked to read: found, told apart by format, and looked into for a header.

Goes through Hadoop's file systems, so that whatever Spark can read can be listed: local paths, HDFS, object stores.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from lakefactor.config.places import NO_PASSWORD, has_password
from lakefactor.errors import InputError

_EXTENSIONS = {
    "csv": "csv",
    "json": "json",
    "jsonl": "json",
    "ndjson": "json",
    "parquet": "parquet",
}
_COMPRESSIONS = ("gz", "bz2")
_GLOB = "*?[{"


@dataclass(frozen=True)
class FileSet:
    """Files of one format that are read together.

    Attributes
    ----------
    format : {"csv", "json", "parquet", "delta"}
    paths : tuple of str
        Qualified paths; of a Delta table its folder.
    base : str
        Folder that was asked for, below which ``name=value`` folders are columns; empty for single files.
    """

    format: str
    paths: tuple[str, ...]
    base: str = ""

    @property
    def place(self) -> str:
        """What an error text calls the set: its folder, or its first file."""
        return self.base or self.paths[0]


def find_files(spark: SparkSession, paths: Sequence[str], declared_format: str) -> list[FileSet]:
    """Find every file behind `paths`.

    Parameters
    ----------
    spark : SparkSession
    paths : sequence of str
        Files, folders (read with what is below them, hidden files left out), Delta tables, or patterns with ``*``.
    declared_format : str
        As ``ingest.format``; "auto" goes by the file names.

    Raises
    ------
    InputError
        Nothing is there, a folder holds no file, a file is empty, or the format cannot be told.
    """
    if not paths:
        raise InputError("no input was named; give files, folders or Delta tables")
    single: list[_File] = []
    sets: list[FileSet] = []
    for asked in paths:
        with refused(f"input {asked} cannot be listed"):
            for status in _statuses(spark, asked):
                if status.isDirectory():
                    sets += _folder(spark, status.getPath(), declared_format)
                elif status.getLen() > 0:
                    single.append(_File.of(status))
                else:
                    raise InputError(f"input file {status.getPath().toString()} is empty; give a file with rows")
    return _each_once(sets + _sets(single, declared_format))


def group_files(paths: Sequence[str], declared_format: str, base: str) -> list[FileSet]:
    """Group files below the folder `base`, none of them empty, by format; see `find_files`."""
    return _sets([_File(path, length=1) for path in paths], declared_format, base)


def check_folder(spark: SparkSession, asked: str, declared_format: str) -> str:
    """Return the qualified path of a folder of files, which may be empty.

    Raises
    ------
    InputError
        There is no folder, or it is or holds a Delta table, or the format of a file in it cannot be told.
    """
    with refused(f"input {asked} cannot be listed"):
        files, path = at(spark, asked)
        folder = files.makeQualified(path)
        if not (files.exists(folder) and files.getFileStatus(folder).isDirectory()):
            raise InputError(f"no folder is at {folder.toString()}; create it, or correct the path")
        if _is_delta(files, folder):
            raise InputError(f"input folder {folder.toString()} is a Delta table, not a folder of files")
        _sets([file for file in _below(files, folder) if file.length], declared_format)
    return str(folder.toString())


def missing_files(spark: SparkSession, uris: Iterable[str]) -> list[str]:
    """Return the paths of those files that are not there, in order."""
    jvm, hadoop_conf = _jvm(spark), spark.sparkContext._jsc.hadoopConfiguration()
    paths = [jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(uri)) for uri in uris]
    return sorted(path.toString() for path in paths if not path.getFileSystem(hadoop_conf).exists(path))


def _each_once(sets: list[FileSet]) -> list[FileSet]:
    """Leave out files that an earlier set, or the same one, holds already."""
    seen: set[str] = set()
    result = []
    for files in sets:
        paths = tuple(path for path in dict.fromkeys(files.paths) if path not in seen)
        seen.update(paths)
        result += [replace(files, paths=paths)] if paths else []
    return result


def header_of(spark: SparkSession, path: str, delimiter: str) -> tuple[str, ...] | None:
    """Return the fields of the first line of a CSV file that is not blank; None where there is none."""
    jvm = _jvm(spark)
    with refused(f"input file {path} cannot be opened"):
        files, place = at(spark, path)
        stream = files.open(place)
        try:
            codec = jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(files.getConf()).getCodec(place)
            text = codec.createInputStream(stream) if codec is not None else stream
            reader = jvm.java.io.BufferedReader(jvm.java.io.InputStreamReader(text, "UTF-8"))
            line = reader.readLine()
            while line is not None and not line.strip("\ufeff \t"):
                line = reader.readLine()
        finally:
            stream.close()
    return None if line is None else tuple(next(csv.reader([line.removeprefix("\ufeff")], delimiter=delimiter)))


def without_patterns(path: str) -> str:
    r"""Escape the signs that would make a path a pattern.

    Spark's own option for that, `__globPaths__`, reads N such paths N times each.

    >>> without_patterns("in/[1]")
    'in/\\[1\\]'
    """
    return "".join(f"\\{sign}" if sign in "*?[]{}\\" else sign for sign in path)


@contextmanager
def refused(what: str, condition: str = "") -> Iterator[None]:
    """Turn a refusal by Spark or Hadoop that mentions `condition` into an InputError that begins with `what`."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        cause = error.java_exception.getMessage() if isinstance(error, Py4JJavaError) else str(error)
        if condition not in (cause or ""):
            raise
        raise InputError(f"{what}: {(cause or 'no reason given').splitlines()[0]}") from error


def _statuses(spark: SparkSession, asked: str) -> list[Any]:
    """Return the FileStatus of what a path, or else a pattern, names."""
    if not asked.strip():
        raise InputError("an input path is empty; give a file, a folder or a Delta table")
    if has_password(asked):
        raise InputError(f"an input path {NO_PASSWORD}")
    files, path = at(spark, asked)
    path = files.makeQualified(path)
    if files.exists(path):
        return [files.getFileStatus(path)]
    found = files.globStatus(path) if any(sign in asked for sign in _GLOB) else None
    if not found:
        raise InputError(f"no file or folder is at {path.toString()}; check the path")
    return list(found)


@dataclass(frozen=True)
class _File:
    path: str
    length: int

    @classmethod
    def of(cls, status: Any) -> _File:
        return cls(status.getPath().toString(), status.getLen())


def _folder(spark: SparkSession, folder: Any, declared_format: str) -> list[FileSet]:
    """Return the Delta table that a folder is, or the files below it by format."""
    place = folder.toString()
    files = folder.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())
    is_delta = _is_delta(files, folder)
    if declared_format == "delta" and not is_delta:
        raise InputError(f"input folder {place} is no Delta table (it has no _delta_log); correct ingest.format")
    if is_delta and declared_format in ("auto", "delta"):
        return [FileSet("delta", (place,))]
    found = list(_below(files, folder))
    if not any(file.length for file in found):
        what = "holds only empty files" if found else "holds no files"
        raise InputError(f"input folder {place} {what}; give a folder with rows")
    return _sets([file for file in found if file.length], declared_format, place)


def _below(files: Any, folder: Any) -> Iterator[_File]:
    """Yield every visible file below a folder."""
    for status in sorted(files.listStatus(folder), key=lambda status: status.getPath().getName()):
        if status.getPath().getName().startswith(("_", ".")):
            continue
        if not status.isDirectory():
            yield _File.of(status)
        elif _is_delta(files, status.getPath()):
            raise InputError(
                f"input folder {folder.toString()} holds the Delta table {status.getPath().getName()}, whose files are "
                "not all its rows; name the table itself, or move it elsewhere"
            )
        else:
            yield from _below(files, status.getPath())


def _is_delta(files: Any, folder: Any) -> bool:
    return bool(files.exists(folder.suffix("/_delta_log")))


def _sets(files: list[_File], declared_format: str, base: str = "") -> list[FileSet]:
    """Group files by format."""
    by_format: dict[str, list[str]] = {}
    for file in files:
        by_format.setdefault(_format(file.path, declared_format), []).append(file.path)
    return [FileSet(kind, tuple(paths), base) for kind, paths in by_format.items()]


def _format(path: str, declared_format: str) -> str:
    if declared_format == "delta":
        raise InputError(f"input {path} is a file, and a Delta table is a folder; correct ingest.format")
    if declared_format != "auto":
        return declared_format
    extensions = path.rpartition("/")[2].lower().split(".")[1:]
    if extensions and extensions[-1] in _COMPRESSIONS:
        extensions.pop()
    if not extensions or extensions[-1] not in _EXTENSIONS:
        raise InputError(
            f"the format of {path} cannot be told from its name; known are .csv, .json, .jsonl, .ndjson (each also .gz "
            "or .bz2), .parquet and Delta folders; rename it, or set ingest.format"
        )
    return _EXTENSIONS[extensions[-1]]


def at(spark: SparkSession, path: str) -> tuple[Any, Any]:
    """Return Hadoop's file system of a path, and its path."""
    place = _jvm(spark).org.apache.hadoop.fs.Path(path)
    return place.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration()), place


def names_in(spark: SparkSession, folder: str) -> list[str]:
    """Return the names of files and folders in a folder, but those that begin with a dot; none where it is absent."""
    files, place = at(spark, folder)
    found = files.listStatus(place) if files.exists(place) else []
    return [name for name in (status.getPath().getName() for status in found) if not name.startswith(".")]


def _jvm(spark: SparkSession) -> Any:
    return spark._jvm
