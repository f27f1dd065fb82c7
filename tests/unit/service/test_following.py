"""The service follows the tables, and goes on answering where it cannot."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from lakefactor.config import Tables
from lakefactor.factorization.strengths import settings_of
from lakefactor.query.lake import Lake
from lakefactor.service.snapshot import Snapshot
from lakefactor.testing.one_model import LIVE, OTHER


def look(service) -> Snapshot:
    assert service.app.state.keeper.look(), service.app.state.keeper.error
    return service.app.state.keeper.snapshot


def seen_by(service, user: str) -> set[str]:
    """Return what is left out for a user: the items that everybody else could be recommended."""
    asked = {"user": user, "n": 99}
    listed = service.get("/v1/recommend", params=asked).json()["items"]
    everything = service.get("/v1/recommend", params=asked | {"exclude_seen": False}).json()["items"]
    return {row["item_id"] for row in everything} - {row["item_id"] for row in listed}


def same_as_client(service, warehouse, users=None):
    warehouse.client.refresh()
    for user in users or warehouse.user_ids:
        found = service.get("/v1/recommend", params={"user": user, "n": 99}).json()
        ours = warehouse.client.recommend(user, 99, unknown="popular")
        assert found["items"] == ours.to_pylist()
        assert (found["basis"], found["batch_id"]) == (ours.basis, ours.batch_id)


def test_what_has_not_changed_is_the_same_object(warehouse, serving):
    with serving() as service:
        before = service.app.state.keeper.snapshot
        assert look(service) is before


def test_new_events_are_seen_at_the_next_look(warehouse, serving):
    with serving() as service:
        before = service.app.state.keeper.snapshot
        warehouse.view({(0, 7): 1.0, ("stranger", 3): 2.0})
        after = look(service)
        assert after.ranking is before.ranking
        assert seen_by(service, "u0") == {warehouse.item_ids[i] for i in (*warehouse.seen[0], 7)}
        assert seen_by(service, "stranger") == {warehouse.item_ids[3]}
        same_as_client(service, warehouse, [*warehouse.user_ids, "stranger"])


def test_micro_batches_are_followed_without_reading_the_model_again(warehouse, serving):
    with serving() as service:
        before = service.app.state.keeper.snapshot
        warehouse.write("factor_updates", [warehouse.update("user", "u0", [1.0, 2.0, 3.0, 4.0], 3)])
        middle = look(service)
        assert (middle.ranking is before.ranking, middle.batch_id) == (True, 3)
        assert np.array_equal(middle.users.get("u0").factors, [1, 2, 3, 4])
        warehouse.write(
            "factor_updates",
            [
                warehouse.update("item", "i3", [4.0, 3.0, 2.0, 1.0], 4),
                warehouse.update("user", "ü/1 ?&", [0.5, 0.5, 0.5, 0.5], 4),
                warehouse.update("user", "somebody new", [1.0, 0.0, 0.0, 1.0], 4),
            ],
        )
        after = look(service)
        assert after.users.factors is before.users.factors
        same_as_client(service, warehouse, [*warehouse.user_ids, "somebody new"])


def test_a_new_item_moves_no_history_and_is_seen_by_who_brought_it(warehouse, serving):
    warehouse.view({(2, "a first item"): 2.0, (0, 5): 1.0})
    with serving() as service:
        assert "a first item" not in seen_by(service, "u0")
        new = warehouse.update("item", "a first item", [9.0, 9.0, 9.0, 9.0], 1)
        warehouse.write("factor_updates", [new])
        look(service)
        same_as_client(service, warehouse)
        assert "a first item" in seen_by(service, warehouse.user_ids[2])
        assert "a first item" not in seen_by(service, "u0")


def test_histories_come_from_interactions_where_these_were_made_alike(warehouse, serving):
    """Nobody reads old events then: a mark in `interactions` is taken, and users with newer events are made anew."""
    made = {
        "events": Lake(Tables(root=str(warehouse.root))).open("events").metadata().id,
        "events_version": 0,
        "settings": settings_of(warehouse.config),
    }
    rows = [{"user_id": warehouse.user_ids[n], "item_id": f"i{n}", "strength": 1.0, "n_events": 1} for n in (0, 1)]
    warehouse.write("interactions", rows)
    table = DeltaTable(str(warehouse.root / "interactions"))
    rows = table.to_pyarrow_table()

    def record(settings):
        text = json.dumps({"made_from": made | {"settings": settings}, "span": {"types": [], "oldest": 0, "newest": 0}})
        properties = CommitProperties(custom_metadata={"userMetadata": text})
        write_deltalake(table, rows, mode="overwrite", commit_properties=properties)

    record(made["settings"])
    with serving() as service:
        assert seen_by(service, "u0") == {"i0"}
    record(made["settings"] | {"delete": "something else"})
    with serving() as service:
        assert seen_by(service, "u0") == {warehouse.item_ids[i] for i in warehouse.seen[0]}


def test_the_change_feed_tells_whose_histories_have_changed(warehouse, serving, monkeypatch):
    events = DeltaTable(str(warehouse.root / "events"))
    events.alter.set_table_properties({"delta.enableChangeDataFeed": "true"})
    with serving() as service:
        warehouse.view({(1, 8): 1.0})

        def all_of_it(*arguments):
            raise AssertionError("all events are read again")

        monkeypatch.setattr("lakefactor.service.reading.base_histories", all_of_it)
        look(service)
        same_as_client(service, warehouse)


def test_a_published_version_is_followed(warehouse, serving):
    with serving() as service:
        warehouse.write("user_factors", [warehouse.user_row(n, OTHER, sign=-1) for n in warehouse.seen])
        warehouse.write("item_factors", [warehouse.item_row(i, -warehouse.items[i], OTHER) for i in range(5, 30)])
        assert look(service).model.model_version == LIVE
        warehouse.publish(OTHER)
        assert look(service).model.model_version == OTHER
        same_as_client(service, warehouse)


def test_no_answer_is_of_two_versions(warehouse, serving):
    """Two models with the same items and opposite factors: an answer of both would score with the wrong sign."""
    warehouse.write("user_factors", [warehouse.user_row(n, OTHER) for n in warehouse.seen])
    warehouse.write("item_factors", [warehouse.item_row(i, -warehouse.items[i], OTHER) for i in range(30)])
    asked = {"user": "u0", "n": 5, "exclude_seen": False}
    with serving() as service:
        expected = {LIVE: service.get("/v1/recommend", params=asked).json()["items"]}
        warehouse.publish(OTHER)
        look(service)
        expected[OTHER] = service.get("/v1/recommend", params=asked).json()["items"]
        assert expected[LIVE] != expected[OTHER]
        ended = Event()

        def ask() -> list[dict]:
            answers = []
            while not ended.is_set():
                answers.append(service.get("/v1/recommend", params=asked).json())
            return answers

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            try:
                for turn in range(8):
                    warehouse.publish(LIVE if turn % 2 == 0 else OTHER)
                    look(service)
            finally:
                ended.set()
        answers = [answer for some in asking for answer in some.result()]
    assert {answer["model_version"] for answer in answers} == {LIVE, OTHER}
    assert all(answer["items"] == expected[answer["model_version"]] for answer in answers)


def test_without_a_model_it_says_so_until_there_is_one(build, serving):
    with serving(look=False) as service:
        keeper = service.app.state.keeper
        assert not keeper.look()
        refused = service.get("/v1/recommend", params={"user": "u0"})
        assert (refused.status_code, refused.json()["error"], refused.headers["retry-after"]) == (503, "no_model", "5")
        ready = service.get("/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "no model is published" in ready.json()["error"]
        assert service.get("/health").status_code == 200
        build()
        look(service)
        assert service.get("/ready").json()["ready"]
        assert service.get("/v1/recommend", params={"user": "u0"}).status_code == 200


def damage(root, table: str, how: str) -> None:
    if how == "gone":
        shutil.rmtree(root / table)
    elif how == "truncated file":
        for file in (root / table).glob("*.parquet"):
            file.write_bytes(file.read_bytes()[:40])
    else:
        newest = max((root / table / "_delta_log").glob("*.json"))
        newest.write_text(newest.read_text()[: len(newest.read_text()) // 2])


@pytest.mark.parametrize("how", ["gone", "truncated file", "half-written log"])
@pytest.mark.parametrize("table", ["live_model", "item_factors", "user_factors", "models", "events"])
def test_damaged_tables_stop_neither_a_start_nor_a_running_service(warehouse, serving, table, how):
    with serving() as service:
        before = service.get("/v1/recommend", params={"user": "u0"}).json()
        # Every table is read again after a change of a factor table, so the damage is met.
        warehouse.write("user_factors", [warehouse.user_row(0, OTHER)])
        damage(warehouse.root, table, how)
        keeper = service.app.state.keeper
        assert not keeper.look()
        ready = service.get("/ready").json()
        assert ready["ready"]
        assert ready["error"]
        assert service.get("/v1/recommend", params={"user": "u0"}).json() == before
        assert "lakefactor_look_failures_total 1.0" in service.get("/metrics").text
    with serving(look=False) as service:
        assert not service.app.state.keeper.look()
        assert service.get("/v1/recommend", params={"user": "u0"}).status_code == 503


def test_it_recovers_by_itself_when_the_tables_do(warehouse, serving, tmp_path):
    with serving() as service:
        shutil.move(warehouse.root, tmp_path / "elsewhere")
        assert not service.app.state.keeper.look()
        shutil.move(tmp_path / "elsewhere", warehouse.root)
        warehouse.view({(0, 9): 1.0})
        look(service)
        assert service.get("/ready").json()["error"] is None
        same_as_client(service, warehouse)
