"""The space of tuning: what is refused, what the defaults hold, and how it narrows. No Spark."""

from __future__ import annotations

import math

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lakefactor.config import Config, changed, load
from lakefactor.config.model_sections import Algorithm
from lakefactor.errors import ConfigError
from lakefactor.pipelines.sampler import Sampler
from lakefactor.pipelines.search_space import (
    DEFAULTS,
    Phase,
    changes_of,
    coarse_phase,
    fine_phase,
    near,
    space_of,
    values_of,
)
from lakefactor.pipelines.trials import Trial, best

ALGORITHMS = Algorithm.__args__


def configured(*overrides: str) -> Config:
    return load(None, overrides)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{low=1, high=2}", "'model.alfa': there is no key 'model.alfa' in the sections model, train, sgd"),
        ("{low=2, high=1}", "low 2 is not below high 1"),
        ("{low=0.0, high=1.0, log=true}", "low 0.0 has no place on a log scale; raise it above 0, or set log = false"),
        ("{low=-1.0, high=1.0}", "'model.alpha': -1.0: input should be greater than 0"),
        ("{high=1.0}", "give { low = 1, high = 8, log = true } or a list of choices"),
        ("[]", "give different texts, numbers or truth values, at least one"),
        ("[1.0, 1.0]", "give different texts, numbers or truth values, at least one"),
        ('[1.0, "high"]', "'model.alpha': 'high': input should be a valid number"),
    ],
)
def test_a_bad_space_is_refused_in_words(space: str, message: str) -> None:
    name = "model.alfa" if "alfa" in message else "model.alpha"
    with pytest.raises(ConfigError) as refused:
        configured(f"tune.space.'{name}'={space}")
    assert message in str(refused.value)


def test_keys_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tune\.space names model\.user_reg twice"):
        configured("tune.space.'model.user_reg'=[1.0]", "tune.space.'model.user_reg, model.item_reg'=[1.0, 2.0]")
    with pytest.raises(ConfigError, match=r"tune.coarse_trials 12 leaves nothing of tune.trials 12"):
        configured("tune.trials=12", "tune.coarse_trials=12")
    with pytest.raises(ConfigError, match=r"tune.metric ndcg_at_7 needs the cut-off 7 in evaluate.ks"):
        configured("tune.metric=ndcg_at_7")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_default_space_is_one_that_the_configuration_takes(algorithm: str) -> None:
    """The corners of the space are valid configurations, those of `tune.space` checked as a user's own."""
    config = configured(f"model.algorithm={algorithm}")
    written = {
        name: list(wanted) if isinstance(wanted, tuple) else wanted.model_dump()
        for name, wanted in DEFAULTS[algorithm].items()
    }
    assert space_of(changed(config, {"tune.space": written})) == space_of(config)
    for end in ("low", "high"):
        corner = {
            name: getattr(found, end, None) if not isinstance(found, CategoricalDistribution) else found.choices[-1]
            for name, found in space_of(config).items()
        }
        changed(config, changes_of(corner))


def test_a_space_takes_the_types_of_its_keys() -> None:
    config = configured(
        "tune.space.'model.rank'={low=4, high=64, log=true}",
        "tune.space.'model.user_reg, model.item_reg'={low=1, high=10}",
        "tune.space.'model.strength'=['value', 'binary']",
    )
    assert space_of(config) == {
        "model.rank": IntDistribution(4, 64, log=True),
        "model.user_reg, model.item_reg": FloatDistribution(1.0, 10.0),
        "model.strength": CategoricalDistribution(("value", "binary")),
    }


def test_what_a_trial_changes_leads_back_to_the_values_of_its_dimensions() -> None:
    values = {"model.user_reg, model.item_reg": 0.5, "model.alpha": 2.0}
    changes = changes_of(values)
    assert changes == {"model.user_reg": 0.5, "model.item_reg": 0.5, "model.alpha": 2.0}
    assert values_of(changes, dict.fromkeys(values, FloatDistribution(0.1, 5.0))) == values
    config = changed(Config(), changes)
    assert (config.model.user_reg, config.model.item_reg, config.model.alpha) == (0.5, 0.5, 2.0)


@pytest.mark.parametrize("value", [1.0, 30.0, 1000.0])
def test_a_third_of_a_log_scale_is_left_around_the_best(value: float) -> None:
    whole = FloatDistribution(1.0, 1000.0, log=True)
    left = near(whole, value)
    assert isinstance(left, FloatDistribution)
    assert whole.low <= left.low <= value <= left.high <= whole.high
    assert left.high / value == pytest.approx(min(math.sqrt(10), whole.high / value))
    assert value / left.low == pytest.approx(min(math.sqrt(10), value / whole.low))
    assert near(CategoricalDistribution(["a", "b"]), "b") == CategoricalDistribution(["b"])
    assert near(IntDistribution(1, 10), 5) == IntDistribution(4, 6)


def test_coarse_trials_are_at_the_small_rank_and_fine_ones_begin_with_their_best() -> None:
    config = configured("model.algorithm=ials", "tune.trials=10", "tune.coarse_trials=4", "tune.coarse_rank=8")
    space = space_of(config)
    coarse = coarse_phase(config, space)
    assert coarse is not None
    assert (coarse.numbers, coarse.fixed, set(coarse.space)) == (range(1, 5), {"model.rank": 8}, set(space))
    assert coarse.first["model.unobserved_weight"] == config.model.unobserved_weight
    found = dict(coarse.first) | {"model.unobserved_weight": 0.01}
    fine = fine_phase(config, space, coarse, found)
    assert (fine.numbers, fine.fixed, fine.first) == (range(5, 10), {}, found)
    whole, left = space["model.unobserved_weight"], fine.space["model.unobserved_weight"]
    assert isinstance(whole, FloatDistribution)
    assert isinstance(left, FloatDistribution)
    assert whole.low < left.low < 0.01 < left.high < whole.high


def test_a_rank_that_is_searched_is_searched_in_fine_trials_alone() -> None:
    config = configured("tune.space.'model.rank'=[16, 32]", "tune.space.'model.alpha'={low=1.0, high=9.0}")
    space = space_of(config)
    coarse = coarse_phase(config, space)
    assert coarse is not None
    assert set(coarse.space) == {"model.alpha"}
    assert fine_phase(config, space, coarse, {"model.alpha": 2.0}).space["model.rank"] == space["model.rank"]


@pytest.mark.parametrize("override", ["model.algorithm=svd", "model.rank=16", "tune.coarse_trials=0"])
def test_there_are_no_coarse_trials_where_the_rank_is_all_or_small(override: str) -> None:
    config = configured(override)
    space = space_of(config)
    assert coarse_phase(config, space) is None
    assert fine_phase(config, space, None, None).space == space


def trial(number: int, value: float | None, history: list[float] | None = None, alpha: float = 1.0) -> Trial:
    state = "pruned" if value is None else "complete"
    return Trial(number, "fine", state, {"model.alpha": alpha}, "ndcg_at_10", value, history or [])


def test_the_best_is_the_highest_or_for_errors_the_lowest_and_of_equals_the_first() -> None:
    assert best([trial(0, 0.2), trial(1, None), trial(2, 0.3), trial(3, 0.3)]) == trial(2, 0.3)
    errors = [Trial(n, "fine", "complete", {}, "rmse", value) for n, value in enumerate((0.9, 0.8, 0.85))]
    assert best(errors) == errors[1]
    assert best([trial(0, None)]) is None


def test_a_trial_is_poor_below_the_median_of_those_before_it_after_some_iterations() -> None:
    config = configured("tune.prune_after=2", "tune.space.'model.alpha'={low=1.0, high=9.0}")
    phase = Phase("fine", range(1, 9), space_of(config), {}, {"model.alpha": 3.0})
    done = [trial(n, 0.5, [0.1, 0.2, 0.4], alpha=n + 1.0) for n in range(4)]
    sampler = Sampler(phase, done, "ndcg_at_10", config.tune)
    draw = sampler.draw(1)
    assert draw.values == {"model.alpha": 3.0}
    assert [draw.is_poor(n, metric) for n, metric in enumerate((0.01, 0.02, 0.03), 1)] == [False, True, True]
    good = sampler.draw(6)
    assert [good.is_poor(n, 0.5) for n in (1, 2, 3)] == [False, False, False]


def test_a_sampler_that_goes_on_does_not_draw_again_what_it_drew_at_first() -> None:
    config = configured("tune.space.'model.alpha'={low=1.0, high=9.0}")
    phase = Phase("fine", range(1, 9), space_of(config), {}, {})
    first = Sampler(phase, [], "ndcg_at_10", config.tune).draw(1).values["model.alpha"]
    again = Sampler(phase, [], "ndcg_at_10", config.tune).draw(1).values["model.alpha"]
    after = Sampler(phase, [trial(1, 0.1, alpha=first)], "ndcg_at_10", config.tune).draw(2).values["model.alpha"]
    assert first == again != after
