"""Where tables may live: the checks of ``tables.root``, ``tables.catalog`` and ``tables.metastore``.

Both end up in SQL text and in file systems, so what is not plainly a place is refused.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

SCHEMES = ("file", "s3", "s3a", "gs", "abfs", "abfss", "hdfs", "dbfs")
NO_PASSWORD = "must not hold a password; give credentials to Spark's file system settings"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_METASTORE = re.compile(r"thrift://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_CATALOG = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", re.ASCII)


def check_root(root: str) -> str:
    """Return `root` if it is a local path or a URI that tables may live under; "" means that it is not used.

    Raises
    ------
    ValueError
        It has ``..`` segments, control characters, backticks, outer blanks, ``~``, a password or an unknown scheme.

    Examples
    --------
    >>> check_root("s3://bucket/lake")
    's3://bucket/lake'
    >>> check_root("lake/../other")
    Traceback (most recent call last):
    ValueError: tables.root must not have `..` segments; write the path out
    """
    if root != root.strip():
        raise ValueError("tables.root must not begin or end with a blank")
    if any(not char.isprintable() or char == "`" for char in root):
        raise ValueError("tables.root must not have control characters or backticks")
    if any(unquote(part) == ".." for part in re.split(r"[/\\]", root)):
        raise ValueError("tables.root must not have `..` segments; write the path out")
    if root.startswith("~"):
        raise ValueError("tables.root must not begin with `~`; write the path out")
    scheme = _SCHEME.match(root)
    if scheme and scheme[1] not in SCHEMES:
        raise ValueError(f"tables.root has the scheme `{scheme[1]}`; known are {', '.join(SCHEMES)}, or a plain path")
    if scheme and not root[scheme.end() :].strip("/"):
        raise ValueError(f"tables.root names no folder after `{scheme[0]}`")
    if has_password(root):
        raise ValueError(f"tables.root {NO_PASSWORD}")
    return root


def without_password(place: str) -> str:
    """Return `place` if no password is in it; it is not shown, in an error text either."""
    if has_password(place):
        raise ValueError(f"a path or URI {NO_PASSWORD}")
    return place


def has_password(place: str) -> bool:
    """Tell whether a URI holds a password; keys of object stores may have slashes.

    >>> has_password("s3a://key:se/cret@bucket/lake"), has_password("abfss://container@account/lake")
    (True, False)
    """
    scheme = _SCHEME.match(place)
    return scheme is not None and ":" in place[scheme.end() :].rpartition("@")[0]


def check_snapshot_root(root: str) -> str:
    """Return `root` if snapshots may live under it: the rules of `check_root`."""
    return _as_root(root, "train.snapshot_root")


def check_salt_folder(root: str) -> str:
    """Return `root` if the salt may live in it: the rules of `check_root`."""
    return _as_root(root, "forget.salt_folder")


def _as_root(root: str, key: str) -> str:
    try:
        return check_root(root)
    except ValueError as error:
        raise ValueError(str(error).replace("tables.root", key)) from None


def check_catalog(catalog: str) -> str:
    """Return `catalog` if it is ``schema`` or ``catalog.schema`` in plain names; "" means that it is not used.

    >>> check_catalog("main.lakefactor")
    'main.lakefactor'
    """
    if catalog and not _CATALOG.fullmatch(catalog):
        raise ValueError("tables.catalog must be `schema` or `catalog.schema`, of letters, digits and _ only")
    return catalog


def check_metastore(uris: str) -> str:
    """Return `uris` if it is one or more places of Hive metastores; "" means that there is none.

    >>> check_metastore("thrift://one:9083,thrift://two:9083")
    'thrift://one:9083,thrift://two:9083'
    """
    found = [_METASTORE.fullmatch(uri) for uri in uris.split(",")] if uris else []
    if not all(one and int(one[1]) < 1 << 16 for one in found):
        raise ValueError("tables.metastore must be `thrift://host:port`, or several with commas between and no blanks")
    return uris
