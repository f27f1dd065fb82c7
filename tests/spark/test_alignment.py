"""Factors that are turned toward those of the live model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from lakefactor.config import Config
from lakefactor.pipelines import publish, train
from lakefactor.pipelines.models import live_version
from lakefactor.testing.stream_runs import changed
from lakefactor.testing.tables import taste_groups, write_interactions


def test_aligned_factors_are_turned_toward_the_live_ones_and_score_as_before(spark, config):
    """The rotation is SciPy's; the scores are those of the same training without it."""
    config = changed(config, model={"rank": 3}, train={"iterations": 4}, publish={"require_evaluation": False})
    tables = write_interactions(spark, config, taste_groups())
    first = train.run(spark, changed(config, train={"align": True}))  # toward nothing yet
    publish.run(spark, config)
    live = live_version(tables)
    assert live == first.model_version
    second = changed(config, model={"seed": 2})
    plain, turned = (train.run(spark, each).model_version for each in (second, changed(second, train={"align": True})))
    assert plain != turned

    def factors(version: str, side: str) -> np.ndarray:
        rows = tables.read(f"{side}_factors").where(f"model_version = '{version}'").orderBy(f"{side}_id").collect()
        return np.array([row.factors for row in rows])

    rotation, _ = orthogonal_procrustes(factors(plain, "item"), factors(live, "item"))
    for side in ("user", "item"):
        np.testing.assert_allclose(factors(turned, side), factors(plain, side) @ rotation, atol=1e-4)
    scores = [factors(version, "user") @ factors(version, "item").T for version in (plain, turned)]
    np.testing.assert_allclose(*scores, atol=1e-4)
    rows = {row["model_version"]: row for row in tables.collect("models")}
    assert [rows[version]["aligned_to"] for version in (live, plain, turned)] == [None, None, live]
    old, new = factors(live, "item"), factors(turned, "item")
    cosines = (old * new).sum(1) / np.linalg.norm(old, axis=1) / np.linalg.norm(new, axis=1)
    assert rows[turned]["alignment_cosine"] == pytest.approx(cosines.mean(), abs=1e-4)
    assert rows[turned]["objective"] == rows[plain]["objective"]


@pytest.mark.parametrize("algorithm", ["nmf", "svd", "lsa"])
def test_factors_that_mean_something_each_are_not_turned(algorithm):
    with pytest.raises(ValueError, match=f"train.align turns factors, and those of model.algorithm {algorithm} have"):
        Config(model={"algorithm": algorithm}, train={"align": True})  # type: ignore[arg-type]
