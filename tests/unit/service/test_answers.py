"""Every answer of the service is the client's, to the bit."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from lakefactor.client import Client
from lakefactor.client.loaded import LoadedModel
from lakefactor.config import Config, Recommend, changed
from lakefactor.service.ranking import TOGETHER, Ranking, Wanted
from lakefactor.service.scans import Scans


def same(response, answer, n=None):
    assert response.status_code == 200, response.text
    found = response.json()
    assert {"model_version": answer.model_version, "batch_id": answer.batch_id, "basis": answer.basis}.items() <= (
        found.items()
    )
    assert found["items"] == answer.to_pylist()
    return found


def test_recommendations_for_a_user_are_the_clients(each, serving):
    items = each.item_ids
    with serving() as service:
        for n, user in enumerate(each.user_ids):
            same(service.get("/v1/recommend", params={"user": user, "n": 5}), each.client.recommend(user, 5))
            rules = {"deny": [items[9], items[28]], "allow": items[5:], "n": 8}
            same(
                service.get("/v1/recommend", params={"user": user, **rules}),
                each.client.recommend(user, **rules),
            )
            everything = {"n": 99, "exclude_seen": False}
            same(
                service.post("/v1/recommend", json={"user": user, **everything}),
                each.client.recommend(user, **everything),
            )
            without = [items[each.seen[n][0]]]
            same(
                service.post("/v1/recommend", json={"user": user, "without": without}),
                each.client.recommend(user, without=without),
            )


def test_recommendations_for_a_session_are_the_clients(each, serving):
    session = {each.item_ids[9]: 4.0, each.item_ids[2]: 2.5}
    asked = {"items": [{"item": item, "strength": strength} for item, strength in session.items()], "n": 7}
    with serving() as service:
        same(service.post("/v1/recommend", json=asked), each.client.recommend(items=session, n=7))


def test_similar_items_and_scores_are_the_clients(each, serving):
    with serving() as service:
        for item in each.item_ids:
            same(service.get("/v1/similar", params={"item": item, "n": 40}), each.client.similar_items(item, 40))
        targets = [each.item_ids[8], each.item_ids[0], each.item_ids[8]]
        for user in each.user_ids:
            same(service.post("/v1/score", json={"user": user, "targets": targets}), each.client.score(user, targets))


def test_explanations_are_the_clients(each, serving):
    with serving() as service:
        for user in each.user_ids:
            item = each.item_ids[11]
            why = each.client.explain(user, item)
            told = same(service.get("/v1/explain", params={"user": user, "target": item}), why)
            assert (told["score"], told["base"], told["stored_score"]) == (why.score, why.base, why.stored_score)
        items = {each.item_ids[1]: 2.0, each.item_ids[4]: 3.0}
        why = each.client.explain(None, item, items=items, without=[each.item_ids[1]])
        asked = {"items": [{"item": name, "strength": s} for name, s in items.items()], "target": item}
        told = same(service.post("/v1/explain", json=asked | {"without": [each.item_ids[1]]}), why)
        assert (told["score"], told["stored_score"]) == (why.score, None)


def test_a_fold_in_of_a_trained_user_is_the_user(each, serving):
    with serving() as service:
        for n in each.seen:
            items = [{"item": each.item_ids[i], "strength": each.strengths[n, i]} for i in each.seen[n]]
            told = service.post("/v1/fold-in", json={"items": items}).json()
            factors, bias = each.solve(n)
            np.testing.assert_allclose([*told["factors"], told["bias"]], [*factors, bias], rtol=1e-5, atol=1e-6)
            ours = each.client.fold_in({row["item"]: row["strength"] for row in items})
            assert np.array_equal(np.array(told["factors"], np.float32), ours.factors)


def test_of_an_unknown_user_it_answers_by_policy(warehouse, serving):
    warehouse.view({("stranger", 4): 1.0})
    with serving() as service:
        for user in ("nobody", "stranger"):
            ours = warehouse.client.recommend(user, 5, unknown="popular", deny=["i3"])
            found = same(service.get("/v1/recommend", params={"user": user, "n": 5, "deny": ["i3"]}), ours)
            assert found["basis"] == "popular"
        refused = service.get("/v1/explain", params={"user": "nobody", "target": "i3"})
        assert (refused.status_code, refused.json()["error"]) == (404, "unknown_user")
    with serving(unknown_user="refuse") as service:
        refused = service.get("/v1/recommend", params={"user": "nobody"})
        assert (refused.status_code, refused.json()["error"]) == (404, "unknown_user")
        assert service.get("/v1/recommend", params={"user": "u0"}).json()["basis"] == "user"


def test_company_and_candidates_change_no_answer(warehouse, serving):
    random = np.random.default_rng(5)
    with serving() as service:
        ranking = service.app.state.keeper.snapshot.ranking
    wanted = [
        Wanted(random.normal(size=4).astype(np.float32), 0.0, np.unique(random.integers(0, 30, 5)).astype(np.int32), n)
        for n in (3, 200, *range(1, 3 * TOGETHER))
    ]

    async def together(scans: Scans) -> list:
        return await asyncio.gather(*(scans.best(ranking, one) for one in wanted))

    scans = Scans()
    scans.start()
    try:
        found = asyncio.run(together(scans))
    finally:
        scans.stop()
    for one, answer in zip(wanted, found, strict=True):
        (alone,) = ranking.best_of_all([one])
        assert np.array_equal(answer.columns, alone.columns)
        assert answer.scores.tobytes() == alone.scores.tobytes()
        among = ranking.best_among(one, np.arange(30, dtype=np.int32))
        assert np.array_equal(among.columns, alone.columns)


def test_an_index_leads_to_the_same_scores_and_leaves_out_what_is_seen(each, serving):
    with serving(approximate_above=10, approximate_share=1.0, approximate_candidates=8) as service:
        ready = service.get("/ready").json()
        assert (ready["search"], ready["recall_at_100"]) == ("approximate", 1.0)
        for user in each.user_ids:
            same(service.get("/v1/recommend", params={"user": user, "n": 4}), each.client.recommend(user, 4))
            same(service.get("/v1/recommend", params={"user": user, "n": 99}), each.client.recommend(user, 99))


def test_an_index_is_never_behind_the_items_that_changed(warehouse):
    from lakefactor.factorization.catalogue import Catalogue
    from lakefactor.service.item_index import ItemIndex
    from lakefactor.service.snapshot import with_items

    import pyarrow as pa  # isort: skip

    random = np.random.default_rng(1)
    ids = pa.array([f"i{n:04d}" for n in range(2000)])
    old = Catalogue(ids, random.normal(size=(2000, 8)).astype(np.float32), np.zeros(2000, np.float32), np.arange(2000))
    config = changed(Config(), {"serve.approximate_share": 0.2}).serve
    index = ItemIndex(old, config)
    vector = random.normal(size=8).astype(np.float32)
    best = 10 * np.stack([vector, 2 * vector])
    rows = Catalogue(pa.array(["i0007", "a new one"]), best, np.zeros(2, np.float32), np.ones(2, np.int64))
    new, place, fresh = with_items(old, rows)
    model = LoadedModel("", Config(), 0.0, 1, None, new, -1)
    ranking = Ranking(model, Recommend(), index.updated(place, fresh))
    (found,) = ranking.best([Wanted(vector, 0.0, np.empty(0, np.int32), 2)])
    assert [new.ids[int(column)].as_py() for column in found.columns] == ["a new one", "i0007"]
    assert new.ids.to_pylist() == sorted([*ids.to_pylist(), "a new one"])
    assert index.updated(place, fresh).staleness == pytest.approx(2 / 2000)


def test_categories_rule_lists_and_are_what_unknown_users_are_asked_for(warehouse, serving):
    kinds = {item: "abc"[place % 3] for place, item in enumerate(warehouse.item_ids)}
    warehouse.write("items", [{"item_id": item, "category": kind} for item, kind in kinds.items()])
    client = Client(str(warehouse.root))
    with serving(warehouse) as service:
        for user in ("u0", "nobody"):
            found = service.get("/v1/recommend", params={"user": user, "category": ["a", "c"], "n": 99}).json()
            expected = client.recommend(user, 99, categories=["a", "c"], unknown="popular")
            assert [row["item_id"] for row in found["items"]] == expected.rows["item_id"].to_pylist()
            assert {kinds[row["item_id"]] for row in found["items"]} == {"a", "c"}
            assert found["basis"] == expected.basis == ("user" if user == "u0" else "category")
        body = {"user": "u0", "categories": ["b"], "allow": warehouse.item_ids[:6]}
        listed = service.post("/v1/recommend", json=body).json()["items"]
        assert {row["item_id"] for row in listed} <= {i for i in warehouse.item_ids[:6] if kinds[i] == "b"}
        assert service.get("/v1/recommend", params={"user": "u0", "category": "z"}).status_code == 404


RULES = {
    "deny_items": ("i8", "i19"),
    "deny_categories": ("c",),
    "max_per_category": 2,
    "popularity_discount": 0.3,
    "diversity": 0.4,
}


@pytest.mark.parametrize("search", [{}, {"serve.approximate_above": 10, "serve.approximate_candidates": 30}])
@pytest.mark.parametrize("rules", [*([key] for key in RULES), list(RULES)], ids=lambda keys: "+".join(keys)[:20])
def test_lists_follow_the_configured_rules_as_the_clients_do(warehouse, serving, rules, search):
    kinds = {item: "abcd"[place % 4] for place, item in enumerate(warehouse.item_ids)}
    warehouse.write("items", [{"item_id": item, "category": kind} for item, kind in kinds.items()])
    client, ruled = Client(str(warehouse.root)), Recommend(**{key: RULES[key] for key in rules})
    plain = [client.recommend(user, 6).to_pylist() for user in warehouse.user_ids]
    expected = [client.recommend(user, 6, rules=ruled).to_pylist() for user in warehouse.user_ids]
    assert plain != expected  # the rules have a say
    keys = search | {"serve.approximate_share": 1.0} | {f"recommend.{key}": RULES[key] for key in rules}
    with serving(**keys) as service:
        for user, rows in zip(warehouse.user_ids, expected, strict=True):
            assert service.get("/v1/recommend", params={"user": user, "n": 6}).json()["items"] == rows
            narrow = {"allow": warehouse.item_ids[:15], "deny": warehouse.item_ids[4:6], "n": 5}
            ours = client.recommend(user, rules=ruled, **narrow)
            same(service.get("/v1/recommend", params={"user": user, **narrow}), ours)
        ours = client.recommend("nobody", 9, rules=ruled, unknown="popular")
        same(service.get("/v1/recommend", params={"user": "nobody", "n": 9}), ours)


def test_what_a_user_has_seen_is_left_in_if_the_configuration_says_so(warehouse, serving):
    with serving(**{"recommend.exclude_seen": False}) as service:
        expected = warehouse.client.recommend("u0", 30, exclude_seen=False)
        same(service.get("/v1/recommend", params={"user": "u0", "n": 30}), expected)
        asked = {"user": "u0", "n": 30, "exclude_seen": True}
        same(service.get("/v1/recommend", params=asked), warehouse.client.recommend("u0", 30))
