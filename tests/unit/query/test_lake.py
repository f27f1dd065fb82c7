from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakefactor.config import Tables
from lakefactor.errors import TableError
from lakefactor.query.lake import Lake

COLUMNS = ("event_id", "user_id", "item_id", "value", "event_time")


@pytest.mark.parametrize("ids", ["string", "long"])
@pytest.mark.parametrize("key", ["user_id", "item_id"])
def test_the_rows_of_some_ids_are_all_of_theirs_and_no_others(write, root, ids, key):
    random = np.random.default_rng(3)

    def name(number: int) -> str | int:
        return 3_000_000_019 * number if ids == "long" else f"{number:04d}"

    rows = [
        {
            "event_id": number.to_bytes(16, "big"),
            "user_id": name(int(random.integers(50))),
            "item_id": name(int(random.integers(30))),
            "value": float(number),
        }
        for number in range(600)
    ]
    for part in range(3):  # one file each, with users from all over
        write("events", rows[part::3], ids=ids)
    wanted = pa.array([name(3), name(17), name(999)])
    found = Lake(Tables(root=str(root))).of_ids("events", COLUMNS, key, wanted)
    assert found.schema.names == list(COLUMNS)
    if ids == "string":
        assert [pa.types.is_dictionary(found[side].type) for side in ("user_id", "item_id")] == [True, True]
    expected = [row | {"event_time": None} for row in rows if row[key] in wanted.to_pylist()]
    assert sorted(found.to_pylist(), key=lambda row: row["event_id"]) == expected
    nobody = Lake(Tables(root=str(root))).of_ids("events", COLUMNS, key, wanted.slice(2))
    assert nobody.to_pylist() == []
    assert nobody.schema == found.schema


def test_files_that_hold_none_of_the_ids_are_not_opened(write, root):
    for users in ("abc", "def", "xyz"):
        write("events", [{"user_id": user, "value": 2.0} for user in users])
    lake = Lake(Tables(root=str(root)))
    first, second = (DeltaTable(lake.uri("events"), version=n).file_uris() for n in range(2))
    (new,) = set(second) - set(first)
    Path(unquote(new)).write_bytes(b"not a Parquet file")
    found = lake.of_ids("events", ("user_id",), "user_id", pa.array(["a", "z"]))
    assert sorted(found["user_id"].to_pylist()) == ["a", "z"]
    with pytest.raises(TableError, match=r"table events cannot be read from .*: .*; check tables\.root"):
        lake.of_ids("events", ("user_id",), "user_id", pa.array(["e"]))


def test_an_older_version_is_read_as_it_was(write, root):
    write("events", [{"user_id": "a", "value": 1.0}])
    write("events", [{"user_id": "a", "value": 2.0}])
    lake = Lake(Tables(root=str(root)))
    assert lake.version("events") == 1
    read = [lake.of_ids("events", ("value",), "user_id", pa.array(["a"]), version) for version in (0, 1, None)]
    assert [sorted(table["value"].to_pylist()) for table in read] == [[1.0], [1.0, 2.0], [1.0, 2.0]]


@pytest.mark.parametrize("sign", "[]\\^|")
def test_folders_that_delta_rs_cannot_write_to_are_known(tmp_path, sign):
    """Without the question, write_deltalake ends with a panic of Rust."""
    place = tmp_path / f"a{sign}b"
    assert not Lake(Tables(root=str(place))).is_writable
    assert Lake(Tables(root=str(tmp_path))).is_writable
    with pytest.raises(BaseException, match=r"Invalid object store url|File not found"):
        write_deltalake(str(place / "t"), pa.table({"n": [1]}))
