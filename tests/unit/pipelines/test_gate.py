"""The gate's reasons, from figures whose comparison is plain."""

from __future__ import annotations

import numpy as np
import pytest

from lakefactor.config import Publish
from lakefactor.pipelines.evaluations import Evaluation, Measured
from lakefactor.pipelines.gate import objections

GATE = Publish(metric="ndcg_at_10", max_relative_loss=0.05, max_segment_loss=0.1)
NOISE = np.array([-0.01, 0.0, 0.01])


def measured(value: float) -> Measured:
    return Measured(value, value + NOISE)


def evaluation(version: int = 7, **figures: float) -> Evaluation:
    """Return figures at 10 over everyone: of the model by their names, of popularity with ``popularity_`` before."""
    found = {"ndcg": 0.4, "popularity_ndcg": 0.2, "popularity_mean_popularity": 100.0} | figures
    kinds = {}
    for name, value in found.items():
        who = "popularity" if name.startswith("popularity_") else "model"
        metric, _, segment = name.removeprefix("popularity_").partition("__")
        kinds[who, segment or "all", f"{metric}_at_10"] = measured(value)
    return Evaluation("global_time", version, kinds)


def test_a_good_model_passes() -> None:
    assert objections(GATE, evaluation(), None) == []
    assert objections(GATE, evaluation(), evaluation(ndcg=0.42)) == []


@pytest.mark.parametrize(
    ("limits", "figures", "words"),
    [
        ({}, {"ndcg": 0.2}, "ndcg_at_10 0.2000 does not beat popularity's 0.2000"),
        ({"min_coverage": 0.3}, {"coverage": 0.29}, "coverage_at_10 0.2900 is below publish.min_coverage 0.3"),
        (
            {"max_exposure_gini": 0.9},
            {"exposure_gini": 0.91},
            "exposure_gini_at_10 0.9100 is above publish.max_exposure_gini 0.9",
        ),
        (
            {"max_popularity": 0.5},
            {"mean_popularity": 60.0},
            "its lists are 0.6000 as popular as those of the most popular items, above publish.max_popularity 0.5",
        ),
    ],
)
def test_each_limit_has_its_reason(limits: dict[str, float], figures: dict[str, float], words: str) -> None:
    gate = GATE.model_copy(update=limits)
    assert objections(gate, evaluation(**figures), None) == [words]
    kept = {name: value for name, value in figures.items() if name == "ndcg"}
    assert objections(GATE.model_copy(update={"beat_popularity": False}), evaluation(**kept), None) == []


def test_a_loss_over_everyone_is_refused() -> None:
    words = "ndcg_at_10 0.3700 is worse than the live model's 0.4000 by more than 5%"
    assert objections(GATE, evaluation(ndcg=0.37), evaluation()) == [words]


def test_a_gain_for_most_does_not_hide_a_loss_for_new_users() -> None:
    found, before = evaluation(ndcg=0.45, ndcg__new_users=0.2), evaluation(ndcg__new_users=0.3)
    words = "ndcg_at_10 of new_users 0.2000 is surely worse than the live model's 0.3000 by more than 10%"
    assert objections(GATE, found, before) == [words]
    elsewhere = evaluation(version=6, ndcg__new_users=0.3)  # of other data: no pairs
    assert objections(GATE, found, elsewhere) == []


def test_a_loss_of_a_segment_that_may_be_chance_passes() -> None:
    before = evaluation(ndcg__new_users=0.3)
    found = evaluation(ndcg__new_users=0.26)
    wide = Measured(0.26, 0.26 + np.array([-0.1, 0.0, 0.1]))
    found.figures["model", "new_users", "ndcg_at_10"] = wide
    assert objections(GATE, found, before) == []


def test_less_is_better_for_errors() -> None:
    gate = Publish(metric="rmse", max_relative_loss=0.05, beat_popularity=False)

    def of(value: float, segment: float) -> Evaluation:
        figures = {("model", "all", "rmse"): measured(value), ("model", "light_users", "rmse"): measured(segment)}
        return Evaluation("global_time", 7, figures)

    assert objections(gate, of(0.9, 1.0), of(1.0, 1.2)) == []
    assert objections(gate, of(1.1, 1.5), of(1.0, 1.2)) == [
        "rmse 1.1000 is worse than the live model's 1.0000 by more than 5%",
        "rmse of light_users 1.5000 is surely worse than the live model's 1.2000 by more than 10%",
    ]


def test_every_reason_is_told() -> None:
    gate = GATE.model_copy(update={"min_coverage": 0.3})
    found = objections(gate, evaluation(ndcg=0.1, coverage=0.1), evaluation(ndcg=0.4))
    assert [reason.split()[0] for reason in found] == ["ndcg_at_10", "coverage_at_10", "ndcg_at_10"]
