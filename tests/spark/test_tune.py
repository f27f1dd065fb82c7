"""tune: studies of small data whose right answer is known, one that is killed, and what becomes of the best trial."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lakefactor.config import Config, changed, load
from lakefactor.config.toml import toml
from lakefactor.errors import ConfigError, InputError, TableError
from lakefactor.pipelines import train, tune
from lakefactor.pipelines.models import newest
from lakefactor.pipelines.trial_run import Bench
from lakefactor.pipelines.trials import read_trials
from lakefactor.spark.splits import folds, inner_fold
from lakefactor.testing.tables import taste_groups, write_interactions

CHECKOUT = Path(__file__).parents[2]
GROUPS = taste_groups(48, 18)


@pytest.fixture
def small(tmp_path) -> Config:
    """A configuration that has hardly any factors: its regularization is far too strong."""
    return load(
        None,
        [
            f"tables.root={tmp_path / 'warehouse'}",
            "spark.master=local[2]",
            "spark.driver_memory=1g",
            "spark.shuffle_partitions=2",
            "model.rank=4",
            "model.user_reg=10000",
            "model.item_reg=10000",
            "train.iterations=4",
            "train.ranks=1",
            "evaluate.split=random_holdout",
            "evaluate.holdout_fraction=0.2",
            "evaluate.ks=[1, 3]",
            "publish.metric=ndcg_at_3",
            "tune.trials=4",
            "tune.coarse_trials=2",
            "tune.coarse_rank=2",
            "tune.prune_after=0",
            "tune.space.'model.user_reg, model.item_reg'={low=0.01, high=1.0, log=true}",
        ],
    )


def updated(config: Config, **keys: object) -> Config:
    return changed(config, {name.replace("__", "."): value for name, value in keys.items()})


def test_a_study_finds_better_than_a_bad_default_and_the_best_becomes_a_version(spark, small):
    tables = write_interactions(spark, small, GROUPS)
    result = tune.run(spark, small)
    trials = read_trials(tables, result.study_id)
    assert [(t.number, t.phase, t.state) for t in trials] == [
        (0, "default", "complete"), (1, "coarse", "complete"), (2, "coarse", "complete"), (3, "fine", "complete"),
    ]  # fmt: skip
    assert trials[0].changes == {}
    assert [t.changes.get("model.rank") for t in trials] == [None, 2, 2, None]
    best_coarse = max(trials[1:3], key=lambda trial: trial.value)
    assert trials[3].changes["model.user_reg"] == best_coarse.changes["model.user_reg"]  # fine begins with the best
    for trial in trials[1:]:
        reg = trial.changes["model.user_reg"]
        assert trial.changes["model.item_reg"] == reg
        assert 0.01 <= reg <= 1.0
        assert len(trial.history) == trial.iterations
        assert trial.changes["train.iterations"] == trial.history.index(max(trial.history)) + 1
    assert (result.trials, result.pruned, result.failed, result.resumed) == (4, 0, 0, 0)
    assert result.default_value == trials[0].value
    assert result.best_value == max(t.value for t in trials) > result.default_value + 0.1

    again = tune.run(spark, small)
    assert again == result.model_copy(update={"resumed": 4})
    assert tables.read("trials").count() == 4

    version = train.run(spark, small, tuned=result.study_id).model_version
    winner = trials[result.best_trial]
    assert newest(tables, version).config == changed(small, winner.changes)
    pasted = ["tables.root=x", *result.overrides]
    assert load(None, pasted).model.user_reg == winner.changes["model.user_reg"]
    assert train.run(spark, small, tuned=result.study_id).model_version == version
    with pytest.raises(TableError, match="table trials holds no study 'other'"):
        train.run(spark, small, tuned="other")


def test_what_a_choice_is_made_on_is_not_what_an_evaluation_tests_on(spark, small):
    tables = write_interactions(spark, small, GROUPS)
    interactions = tables.read("interactions")
    for split in ("random_holdout", "k_fold", "user_holdout"):
        settings = small.evaluate.model_copy(update={"split": split})
        outer, inner = next(folds(interactions, settings)), inner_fold(interactions, settings)
        parts = {"tested": outer.test, "known": inner.known, "seen": inner.train, "chosen": inner.test}
        pairs = {
            name: {tuple(row) for row in part.select("user_id", "item_id").collect()} for name, part in parts.items()
        }
        assert pairs["chosen"]
        assert pairs["seen"]
        assert not pairs["tested"] & (pairs["chosen"] | pairs["seen"] | pairs["known"])
        assert not pairs["chosen"] & pairs["seen"]


def test_trials_that_cannot_be_solved_are_recorded_and_the_study_goes_on(spark, small):
    """Rank 12 without regularization has singular systems. Two trials at a time."""
    tables = write_interactions(spark, small, GROUPS)
    config = updated(
        small,
        model__algorithm="explicit_als", model__rank=12, model__user_reg=0.1, model__item_reg=0.1,
        train__solver="cholesky", tune__coarse_trials=0, tune__trials=5, tune__parallel=2,
        tune__space={"model.user_reg, model.item_reg, model.bias_reg": [0.0, 0.1]},
    )  # fmt: skip
    result = tune.run(spark, config)
    trials = read_trials(tables, result.study_id)
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    singular = [trial for trial in trials if trial.changes.get("model.user_reg") == 0.0]
    assert singular
    assert result.failed == len(singular)
    for trial in trials:
        assert trial.state == ("failed" if trial in singular else "complete")
    for trial in singular:
        assert "singular or not finite; raise model.user_reg" in trial.reason
        assert (trial.value, trial.iterations, trial.history) == (None, 0, [])


@pytest.mark.long
def test_a_poor_trial_is_cancelled_before_its_last_iteration(spark, small):
    """The training itself would take ten thousand iterations."""
    tables = write_interactions(spark, small, GROUPS)
    fold = inner_fold(tables.read("interactions"), small.evaluate)
    seen = []

    def is_poor(iteration: int, metric: float) -> bool:
        seen.append((iteration, metric))
        return iteration == 3

    bench = Bench(
        spark, updated(small, train__iterations=10_000, train__stop_patience=1000), fold, "ndcg_at_3", users=48
    )
    trial = bench.run(7, "fine", {"model.user_reg": 0.5}, is_poor)
    assert (trial.number, trial.state, trial.value) == (7, "pruned", None)
    assert trial.changes == {"model.user_reg": 0.5}
    assert trial.history[:3] == [metric for _, metric in seen]
    assert [iteration for iteration, _ in seen] == [1, 2, 3]
    good = bench.run(8, "fine", {"train.iterations": 3}, lambda iteration, metric: False)
    assert (good.state, good.iterations) == ("complete", 3)


@pytest.mark.long
def test_a_study_that_is_killed_goes_on_with_the_trials_that_are_missing(spark, small, tmp_path):
    tables = write_interactions(spark, small, GROUPS)
    config_file = tmp_path / "small.toml"
    config_file.write_text(toml(small, "Of this test."))
    command = [sys.executable, "-c", "from lakefactor.cli import main; main()", "tune", "--config", str(config_file)]
    python = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    environment = os.environ | python | {"PYTHONPATH": str(CHECKOUT / "lib")}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stderr is not None
        for line in iter(process.stderr.readline, ""):
            if line.startswith("tune: trial 1 of 4"):
                os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
    assert process.returncode == -signal.SIGKILL
    (study_id,) = {row["study_id"] for row in tables.collect("trials")}
    before = read_trials(tables, study_id)
    assert [trial.number for trial in before] == [0, 1]

    result = tune.run(spark, small)
    assert (result.study_id, result.trials, result.resumed) == (study_id, 4, 2)
    after = read_trials(tables, study_id)
    assert [trial.number for trial in after] == [0, 1, 2, 3]
    assert after[:2] == before
    more = tune.run(spark, updated(small, tune__trials=5))
    assert (more.study_id, more.trials, more.resumed) == (study_id, 5, 4)
    assert tune.run(spark, updated(small, tune__seed=2, tune__trials=3)).study_id != study_id


def test_what_cannot_be_tuned_is_refused(spark, small):
    with pytest.raises(TableError, match="table interactions does not exist"):
        tune.run(spark, small)
    write_interactions(spark, small, GROUPS)
    with pytest.raises(ConfigError, match=r"tune\.metric rmse is not measured; measured are auc, "):
        tune.run(spark, updated(small, tune__metric="rmse"))
    with pytest.raises(ConfigError, match=r"evaluate\.split is user_holdout, .* but model\.algorithm is sgd"):
        tune.run(spark, updated(small, evaluate__split="user_holdout", model__algorithm="sgd"))
    singular = {"model__algorithm": "explicit_als", "model__user_reg": 0.0, "model__item_reg": 0.0, "model__rank": 30}
    alone = updated(small, **singular, train__solver="cholesky", tune__trials=1, tune__coarse_trials=0)
    with pytest.raises(InputError, match=r"no trial of study \w+ is complete; the first: .* singular"):
        tune.run(spark, alone)
