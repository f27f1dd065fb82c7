from __future__ import annotations

import json

import numpy as np
import pytest

from lakefactor.config import Config, Tables, canonical_json, changed
from lakefactor.errors import TableError, UnknownIdError
from lakefactor.pages.evaluation import newest_evaluation
from lakefactor.pages.model import named_version, objective_chart, read_model_page, settings, singular_values
from lakefactor.query.lake import Lake
from lakefactor.testing.warehouse import LIVE, OLD, REFUSED, Warehouse, append


@pytest.fixture
def house(root):
    return Warehouse(root)


def test_singular_values_are_those_of_numpy():
    factors = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
    assert singular_values(factors) == pytest.approx(np.linalg.svd(factors.astype(np.float64), compute_uv=False))


def test_factors_without_length_have_no_nan():
    assert singular_values(np.zeros((3, 2), np.float32)).tolist() == [0, 0]


def test_an_evaluation_beside_popularity(house):
    found = newest_evaluation(Lake(house.config.tables), LIVE)
    ndcg = found.main("ndcg_at_10")[0]
    assert (ndcg.metric, ndcg.model.value, ndcg.popularity.value) == ("ndcg_at_10", 0.25, 0.1)
    # 41 replicates evenly from -0.02 to 0.02 around the value: 2.5 % of them lie beyond one step on either side.
    assert ndcg.model.interval == pytest.approx((0.231, 0.269))
    # Both have the same replicates but for the shift, so they differ by it in each of them.
    assert ndcg.difference_interval == pytest.approx((0.15, 0.15))
    assert ndcg.verdict == "better"
    assert [one.metric for one in found.main("ndcg_at_10")] == ["ndcg_at_10", "recall_at_10", "auc", "coverage_at_10"]
    segments = ["everyone", "new users", "light users", "heavy users", "popular items", "tail items"]
    assert [row[0] for row in found.segment_chart("ndcg_at_10").rows] == segments


def test_less_is_better_for_errors_and_nothing_is_for_exposure(root):
    rows = [("rmse", 0, 1.2, 1.0), ("mae", 0, 0.8, 1.0), ("exposure_gini", 10, 0.9, 0.5), ("auc", 0, 0.5, 0.5)]
    append(root, "evaluations", [
        {"model_version": LIVE, "fold": -1, "segment": "all", "metric": metric, "k": k, "recommender": who,
         "value": value, "replicates": []}
        for metric, k, *values in rows
        for who, value in zip(("model", "popularity"), values, strict=True)
    ])  # fmt: skip
    found = newest_evaluation(Lake(Tables(root=str(root))), LIVE)
    verdicts = {one.metric: one.verdict for one in found.overall}
    assert verdicts == {"rmse": "worse", "mae": "better", "exposure_gini_at_10": "", "auc": ""}


def test_a_version_by_name(house):
    tables = house.config.tables
    assert [named_version(tables, name) for name in ("live", "newest", OLD)] == [LIVE, REFUSED, OLD]
    with pytest.raises(UnknownIdError, match=f"did you mean '{LIVE}'"):
        named_version(tables, LIVE[:-1])


def test_no_version_at_all(root):
    tables = changed(Config(), {"tables.root": str(root)}).tables
    for name in ("live", "newest", "x"):
        with pytest.raises(TableError, match=r"lakefactor (publish|train)"):
            named_version(tables, name)


def test_neighbours_are_by_cosine_of_the_most_popular(house):
    page = read_model_page(Lake(house.config.tables), LIVE)
    y = house.items.astype(np.float64)
    first = page.neighbours[0]
    assert first.n_entries == max(house.n_entries)
    own = house.n_entries.index(first.n_entries)
    cosines = y @ y[own] / np.linalg.norm(y, axis=1) / np.linalg.norm(y[own])
    assert [near["similarity"] for near in first.similar] == pytest.approx(sorted(cosines)[::-1][1:6], rel=1e-5)


def test_a_removed_version_shows_what_was_recorded(house):
    page = read_model_page(Lake(house.config.tables), OLD)
    assert (page.spectrum, page.norms, page.neighbours) == (None, None, [])
    assert page.objective.rows[-1] == ("10", "190")
    assert page.evaluation.overall


def test_no_history_no_chart():
    assert objective_chart([]) is None


def test_settings_tell_what_somebody_set_and_no_secret():
    config = changed(Config(), {"model.rank": 7, "stream.kafka_options": {"kafka.ssl.key.password": "s3cret"}})
    found = {one.key: one for one in settings(canonical_json(config))}
    assert (found["model.rank"].value, found["model.rank"].is_default) == ("7", False)
    assert found["train.iterations"].is_default
    assert "s3cret" not in str(found)
    assert len(found) == sum(len(section) for section in json.loads(canonical_json(config)).values())
