"""Where tables may live: nothing that is not plainly a place gets into SQL text or a path."""

from __future__ import annotations

import pytest

from lakefactor.config import load
from lakefactor.config.places import SCHEMES, check_catalog, check_root
from lakefactor.errors import ConfigError


@pytest.mark.parametrize(
    "root",
    ["", "warehouse", "/a/b", "./a", "a b/c'd\"", "/données", "/a..b/..c", "file:/a", "file:///a", "s3://bucket/lake"]
    + [f"{scheme}://host/a" for scheme in SCHEMES]
    + ["abfss://container@account.dfs.core.windows.net/lake", "hdfs://host:8020/lake"],
)
def test_a_path_or_uri_is_kept_as_it_is(root: str) -> None:
    assert check_root(root) == root


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("..", "segments"),
        ("a/../b", "segments"),
        ("/a/..", "segments"),
        ("s3://bucket/../other", "segments"),
        ("file:///a/%2e%2E/b", "segments"),
        ("a\\..\\b", "segments"),
        ("a`; DROP TABLE x", "backticks"),
        ("a\nb", "control"),
        ("a\x00b", "control"),
        ("a\u202eb", "control"),
        (" a", "blank"),
        ("a ", "blank"),
        ("~/a", "~"),
        ("http://host/a", "scheme `http`"),
        ("S3://bucket/a", "scheme `S3`"),
        ("jdbc:derby:x", "scheme `jdbc`"),
        ("s3://", "no folder"),
        ("file:", "no folder"),
        ("s3://key:secret@bucket/a", "password"),
    ],
)
def test_what_is_not_plainly_a_place_is_refused(root: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_root(root)


@pytest.mark.parametrize("key", ["tables.root", "train.snapshot_root", "stream.path", "stream.checkpoint"])
def test_a_place_with_a_password_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError, match="must not hold a password") as refused:
        load(None, [f"{key}=s3a://key:canary/canary@bucket/a"])
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("catalog", ["", "lake", "main.lake", "A_1.b_2"])
def test_plain_catalogs_are_kept(catalog: str) -> None:
    assert check_catalog(catalog) == catalog


@pytest.mark.parametrize(
    "catalog",
    ["a.b.c", ".", "a.", ".a", "a b", "a-b", "a;DROP TABLE b", "a`", "a'--", "a\n", "é", "a/b", "..", "delta.`/x`"],
)
def test_a_catalog_with_anything_else_in_it_is_refused(catalog: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and _"):
        check_catalog(catalog)
