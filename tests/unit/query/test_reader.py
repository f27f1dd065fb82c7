from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakefactor.config import Tables
from lakefactor.errors import ConfigError, InputError, TableError, UnknownIdError
from lakefactor.query import Reader

WriteTable = Callable[..., None]

LIVE, NEWER = "20261120-080000-aaaa", "20261122-090000-bbbb"

AWKWARD = ["two words ", 'dou"ble', "O'Brien", "Zoë 日本 🎬", "x" * 300, "' OR '1'='1", "%", "a;b--", "[red]", "\n"]


def at(day: int) -> datetime:
    return datetime(2026, 11, day, tzinfo=timezone.utc)


@pytest.fixture
def lake(write: WriteTable) -> None:
    """Users ann and bob and items i1 to i3 in two versions; cid has factors, but no list."""
    write("live_model", [{"name": "default", "model_version": LIVE}, {"name": "canary", "model_version": NEWER}])
    write("models", [{"model_version": LIVE, "created_at": at(20), "algorithm": "ials", "rank": 2, "n_users": 3}])
    write("models", [{"model_version": NEWER, "created_at": at(22), "algorithm": "implicit_als", "rank": 2}])
    for version, sign in ((LIVE, 1.0), (NEWER, -1.0)):
        write(
            "user_factors",
            [
                {"model_version": version, "user_id": user, "factors": [sign * number, 0.1], "n_entries": number}
                for number, user in enumerate(("ann", "bob", "cid"), start=1)
            ],
        )
        write(
            "item_factors",
            [
                {"model_version": version, "item_id": item, "factors": [sign, number], "bias": 0.5, "batch_id": -1}
                for number, item in enumerate(("i1", "i2", "i3"), start=1)
            ],
        )
    write(
        "recommendations",
        [
            {"model_version": LIVE, "user_id": user, "position": position, "item_id": item, "score": 1 / position}
            for user, items in (("ann", ("i3", "i1", "i2")), ("bob", ("i2",)))
            for position, item in sorted(enumerate(items, start=1), reverse=True)
        ],
    )
    write(
        "similar_items",
        [
            {"model_version": LIVE, "item_id": "i1", "position": 2, "similar_item_id": "i2", "similarity": 0.25},
            {"model_version": LIVE, "item_id": "i1", "position": 1, "similar_item_id": "i3", "similarity": 0.5},
            {"model_version": NEWER, "item_id": "i1", "position": 1, "similar_item_id": "i2", "similarity": 0.75},
        ],
    )


@pytest.mark.usefixtures("lake")
def test_recommendations_are_those_of_the_live_version_best_first(reader: Reader) -> None:
    answer = reader.recommendations("ann")
    assert answer.column_names == ["model_version", "user_id", "position", "item_id", "score", "created_at"]
    assert answer.drop_columns(["created_at"]).to_pylist() == [
        {"model_version": LIVE, "user_id": "ann", "position": 1, "item_id": "i3", "score": 1.0},
        {"model_version": LIVE, "user_id": "ann", "position": 2, "item_id": "i1", "score": 0.5},
        {"model_version": LIVE, "user_id": "ann", "position": 3, "item_id": "i2", "score": pytest.approx(1 / 3)},
    ]


@pytest.mark.usefixtures("lake")
def test_limit_keeps_the_best(reader: Reader) -> None:
    assert reader.recommendations("ann", limit=2)["item_id"].to_pylist() == ["i3", "i1"]
    assert reader.recommendations("ann", limit=99).num_rows == 3
    with pytest.raises(InputError, match="limit is 0"):
        reader.recommendations("ann", limit=0)


@pytest.mark.usefixtures("lake")
def test_similar_items_are_of_one_version(reader: Reader) -> None:
    assert reader.similar("i1").select(["position", "similar_item_id", "similarity"]).to_pylist() == [
        {"position": 1, "similar_item_id": "i3", "similarity": 0.5},
        {"position": 2, "similar_item_id": "i2", "similarity": 0.25},
    ]
    assert reader.similar("i1", model_version=NEWER)["similarity"].to_pylist() == [0.75]
    assert reader.similar("i2").num_rows == 0


@pytest.mark.usefixtures("lake")
def test_factors_are_one_row_of_one_version(reader: Reader) -> None:
    row = {"model_version": LIVE, "user_id": "bob", "factors": [2.0, pytest.approx(0.1)], "bias": 0.0, "n_entries": 2}
    assert reader.factors(user="bob").select(list(row)).to_pylist() == [row]
    assert reader.factors(user="bob", model_version=NEWER)["factors"].to_pylist() == [[-2.0, pytest.approx(0.1)]]
    item = {"model_version": LIVE, "item_id": "i3", "factors": [1.0, 3.0], "bias": 0.5, "batch_id": -1}
    assert reader.factors(item="i3").select(list(item)).to_pylist() == [item]


@pytest.mark.usefixtures("lake")
@pytest.mark.parametrize("sides", [{}, {"user": "ann", "item": "i1"}])
def test_factors_want_exactly_one_side(reader: Reader, sides: dict[str, str]) -> None:
    with pytest.raises(InputError, match="exactly one"):
        reader.factors(**sides)


@pytest.mark.usefixtures("lake")
def test_a_known_user_without_a_list_gets_no_rows(reader: Reader) -> None:
    assert reader.recommendations("cid").num_rows == 0


@pytest.mark.usefixtures("lake")
def test_an_unknown_id_is_answered_by_name_and_with_guesses(reader: Reader) -> None:
    with pytest.raises(
        UnknownIdError, match=rf"'Ann' is not in user_factors of model version {LIVE}.*did you mean 'ann'"
    ):
        reader.recommendations("Ann")
    with pytest.raises(UnknownIdError, match="item 'zzz' is not in item_factors of model version"):
        reader.similar("zzz")
    with pytest.raises(UnknownIdError, match="user 'dan' is not in user_factors"):
        reader.factors(user="dan")


@pytest.mark.usefixtures("lake")
def test_guesses_come_from_the_version_that_was_asked(reader: Reader, write: WriteTable) -> None:
    write("user_factors", [{"model_version": NEWER, "user_id": "philippa", "factors": [1.0, 1.0]}])
    with pytest.raises(UnknownIdError, match=r"trained$"):
        reader.factors(user="phillipa")
    with pytest.raises(UnknownIdError, match="did you mean 'philippa'"):
        reader.factors(user="phillipa", model_version=NEWER)


@pytest.mark.usefixtures("lake")
def test_an_unknown_model_version_is_answered_with_a_guess(reader: Reader) -> None:
    with pytest.raises(UnknownIdError, match=f"'20261122-090000-bbbc' is not in table models; did you mean '{NEWER}'"):
        reader.recommendations("ann", model_version="20261122-090000-bbbc")
    with pytest.raises(UnknownIdError, match="'lakefactor query models' lists"):
        reader.factors(user="ann", model_version="?")


@pytest.mark.usefixtures("lake")
def test_a_version_without_recommendations_names_the_command_that_makes_them(reader: Reader) -> None:
    with pytest.raises(TableError, match=f"'lakefactor recommend --model-version {NEWER}'"):
        reader.recommendations("ann", model_version=NEWER)


def test_missing_tables_name_the_command_that_creates_them(reader: Reader, root: Path, write: WriteTable) -> None:
    with pytest.raises(TableError, match=r"no model is published.*'lakefactor publish'"):
        reader.recommendations("ann")
    with pytest.raises(TableError, match=r"table models does not exist at .*'lakefactor train'"):
        reader.models()
    with pytest.raises(TableError, match=r"table interactions does not exist at .*'lakefactor ingest'"):
        reader.history("ann")
    write("live_model", [{"name": "default", "model_version": LIVE}])
    with pytest.raises(TableError, match=r"table recommendations does not exist at .*'lakefactor recommend'"):
        reader.recommendations("ann")
    assert not (root / "recommendations").exists()  # asking creates nothing


@pytest.mark.usefixtures("lake")
def test_a_table_of_another_make_is_refused(reader: Reader, root: Path) -> None:
    write_deltalake(
        str(root / "similar_items"), pa.table({"item_id": ["i1"]}), mode="overwrite", schema_mode="overwrite"
    )
    with pytest.raises(TableError, match=r"similar_items at .* lacks the columns model_version, position"):
        reader.similar("i1")


@pytest.mark.usefixtures("lake")
def test_a_lost_file_is_one_clear_error(reader: Reader, root: Path) -> None:
    for file in (root / "similar_items").glob("*.parquet"):
        file.unlink()
    with pytest.raises(TableError, match=r"table similar_items cannot be read from .*check tables.root"):
        reader.similar("i1")


def test_files_that_cannot_hold_the_answer_are_not_read(reader: Reader, root: Path, write: WriteTable) -> None:
    write("live_model", [{"name": "default", "model_version": LIVE}])
    write("user_factors", [{"model_version": LIVE, "user_id": "ann", "factors": [1.0]}])
    others = {file.name for file in (root / "user_factors").glob("*.parquet")}
    write("user_factors", [{"model_version": LIVE, "user_id": "bob", "factors": [2.0]}])
    for name in others:
        (root / "user_factors" / name).unlink()
    assert reader.factors(user="bob")["factors"].to_pylist() == [[2.0]]


@pytest.mark.parametrize("user", AWKWARD)
def test_any_text_is_an_id(reader: Reader, root: Path, write: WriteTable, user: str) -> None:
    write("live_model", [{"name": "default", "model_version": LIVE}])
    write(
        "user_factors",
        [{"model_version": LIVE, "user_id": other, "factors": [0.0]} for other in AWKWARD if other != user],
    )
    with pytest.raises(UnknownIdError):
        reader.factors(user=user)
    write("user_factors", [{"model_version": LIVE, "user_id": user, "factors": [1.0]}])
    assert reader.factors(user=user).select(["user_id", "factors"]).to_pylist() == [{"user_id": user, "factors": [1.0]}]
    assert DeltaTable(str(root / "user_factors")).version() == 1


@pytest.mark.parametrize("text", ["", "\udcff"])
def test_what_no_table_holds_is_no_id(reader: Reader, write: WriteTable, text: str) -> None:
    write("interactions", [{"user_id": "ann", "item_id": "i1"}])
    with pytest.raises(InputError):
        reader.history(text)


def test_integer_ids_beyond_32_bits(reader: Reader, write: WriteTable) -> None:
    large, least = 2**62 + 1, -(2**63)
    write("live_model", [{"name": "default", "model_version": LIVE}])
    write("user_factors", [{"model_version": LIVE, "user_id": user} for user in (7, large, least)], ids="long")
    write("item_factors", [{"model_version": LIVE, "item_id": 2**31 + 1}], ids="long")
    recommended = {"model_version": LIVE, "user_id": large, "position": 1, "item_id": 2**31 + 1}
    write("recommendations", [recommended], ids="long")
    for given in (large, str(large)):
        assert reader.recommendations(given).select(list(recommended)).to_pylist() == [recommended]
    assert reader.recommendations(least).num_rows == 0
    with pytest.raises(UnknownIdError, match=f"user {large + 1} is not in user_factors"):
        reader.recommendations(large + 1)


@pytest.mark.parametrize(
    "text", ["abc", "1.0", "1e3", "", "1_000", " 7", "\u0667", str(2**63), str(-(2**63) - 1), "9" * 5000]
)
def test_what_is_no_64_bit_integer_is_refused(reader: Reader, write: WriteTable, text: str) -> None:
    write("interactions", [{"user_id": 7, "item_id": 1}], ids="long")
    with pytest.raises(InputError, match="user_id of table interactions is a 64-bit integer; found"):
        reader.history(text)


def test_history_is_newest_first_and_untimed_last(reader: Reader, write: WriteTable) -> None:
    rows = [("i1", 1.0, at(3)), ("i2", 2.0, None), ("i3", 9.0, at(5)), ("i4", 4.0, None), ("i0", 2.0, None)]
    write(
        "interactions",
        [{"user_id": "ann", "item_id": item, "strength": s, "last_event_time": time} for item, s, time in rows]
        + [{"user_id": "bob", "item_id": "i9"}],
    )
    assert reader.history("ann")["item_id"].to_pylist() == ["i3", "i1", "i4", "i0", "i2"]
    assert reader.history("ann", limit=1)["strength"].to_pylist() == [9.0]
    with pytest.raises(UnknownIdError, match="user 'cid' is not in interactions"):
        reader.history("cid")


@pytest.mark.usefixtures("lake")
def test_models_carry_the_means_of_their_newest_evaluation(reader: Reader, write: WriteTable) -> None:
    def measured(
        evaluation: str, day: int, fold: int, recommender: str, value: float, segment: str = "all"
    ) -> list[dict[str, object]]:
        head = {
            "model_version": LIVE,
            "evaluation_id": evaluation,
            "evaluated_at": at(day),
            "split": f"of {evaluation}",
        }
        figures = {"fold": fold, "recommender": recommender, "value": value, "segment": segment}
        return [head | figures | {"metric": "ndcg", "k": 10}, head | figures | {"metric": "rmse", "k": 0}]

    write(
        "evaluations",
        measured("second", 22, -1, "model", 0.5)
        + measured("second", 22, -1, "popularity", 0.25)
        + measured("second", 22, 0, "model", 0.125)
        + measured("second", 22, -1, "model", 0.0625, "new_users")
        + measured("first", 21, -1, "model", 0.75),
    )
    shown = ["live", "model_version", "created_at", "algorithm", "rank", "n_users", "split", "metrics", "popularity"]
    assert reader.models().select(shown).to_pylist(maps_as_pydicts="strict") == [
        dict(zip(shown, (False, NEWER, at(22), "implicit_als", 2, 0, None, None, None), strict=True)),
        {
            "live": True,
            "model_version": LIVE,
            "created_at": at(20),
            "algorithm": "ials",
            "rank": 2,
            "n_users": 3,
            "split": "of second",
            "metrics": {"ndcg_at_10": 0.5, "rmse": 0.5},
            "popularity": {"ndcg_at_10": 0.25, "rmse": 0.25},
        },
    ]


@pytest.mark.usefixtures("lake")
def test_models_need_neither_evaluation_nor_publishing(reader: Reader, root: Path) -> None:
    shutil.rmtree(root / "live_model")
    assert reader.models().select(["live", "model_version", "metrics"]).to_pylist() == [
        {"live": False, "model_version": NEWER, "metrics": None},
        {"live": False, "model_version": LIVE, "metrics": None},
    ]


@pytest.mark.usefixtures("lake")
def test_a_flip_is_seen_by_a_reader_that_is_open(reader: Reader, root: Path, write: WriteTable) -> None:
    assert reader.factors(user="ann")["model_version"].to_pylist() == [LIVE]
    DeltaTable(str(root / "live_model")).delete("name = 'default'")
    write("live_model", [{"name": "default", "model_version": NEWER}])
    assert reader.factors(user="ann")["model_version"].to_pylist() == [NEWER]


def test_a_catalog_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        ConfigError, match=r"tables.catalog is 'main.lake', and without Spark.*tables.metastore.*--root"
    ):
        Reader(Tables(root="", catalog="main.lake"))
