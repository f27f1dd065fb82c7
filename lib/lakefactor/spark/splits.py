"""Splits of interactions into what a model may learn from and what it is measured on.

A split depends on the ids and the seed alone (hashes, no random number state), so it is the same for any partitioning
and on any day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lakefactor.config import Evaluate
from lakefactor.errors import InputError

PERCENTILE_ACCURACY = 100_000


@dataclass(frozen=True)
class Fold:
    """One train/test pair.

    Attributes
    ----------
    number : int
        0, 1, ...
    train : DataFrame
        What the model is trained on.
    known : DataFrame
        What is known of the test users: seen items, and what held-out users are folded in from.
    test : DataFrame
        Interactions to predict.
    fold_in : bool
        The test users are not in ``train``.
    """

    number: int
    train: DataFrame
    known: DataFrame
    test: DataFrame
    fold_in: bool = False


def folds(interactions: DataFrame, config: Evaluate) -> Iterator[Fold]:
    """Yield the folds of the configured split.

    Parameters
    ----------
    interactions : DataFrame
        ``user_id, item_id, strength, last_event_time``.
    config : Evaluate

    Raises
    ------
    InputError
        The split needs event times and there are none, or it leaves nothing to train or to test on.
    """
    if config.split == "k_fold":
        fold = F.pmod(_hash(config.seed, "user_id", "item_id"), F.lit(config.folds))
        marked = interactions.withColumn("fold", fold)
        for number in range(config.folds):
            yield _fold(number, marked, F.col("fold") == number)
    elif config.split == "user_holdout":
        held = _unit(_hash(config.seed, "user_id")) < config.holdout_fraction
        marked = interactions.withColumn("held", held)
        train, users = marked.where(~F.col("held")), marked.where("held")
        part = _fold(0, users, _last_share(F.col("order"), config.holdout_fraction), _random_order(config.seed))
        yield Fold(0, train.drop("held"), part.known, part.test, fold_in=True)
    elif config.split == "random_holdout":
        share = _last_share(F.col("order"), config.holdout_fraction)
        yield _fold(0, interactions, share, _random_order(config.seed))
    elif config.split == "leave_last_out":
        _require_times(interactions, config.split)
        newest_last = [F.col("last_event_time").asc_nulls_first(), *_random_order(config.seed)]
        is_last = (F.col("order") == F.col("size")) & (F.col("size") > 1)
        yield _fold(0, interactions, is_last, newest_last)
    else:
        _require_times(interactions, config.split)
        yield _fold(0, interactions, F.col("last_event_time") > F.lit(_cut(interactions, config)))


def inner_fold(interactions: DataFrame, config: Evaluate) -> Fold:
    """Return the first fold of what the configured split leaves to train on.

    What is chosen by it has not seen what an evaluation tests on. Parameters, errors: as `folds`; the times of
    interactions are needed where the split needs them.
    """
    seen = next(folds(interactions, config)).train
    times = interactions.select("user_id", "item_id", "last_event_time")
    again = config.model_copy(update={"seed": config.seed ^ 1})  # the same hashes would hold out the same part
    return next(folds(seen.join(times, ["user_id", "item_id"]), again))


def _fold(number: int, interactions: DataFrame, is_test: Column, order: list[Column] | None = None) -> Fold:
    """Split by a condition, which may use each interaction's ``order`` among the ``size`` of its user."""
    marked = interactions
    if order is not None:
        by_user = Window.partitionBy("user_id")
        marked = marked.withColumn("order", F.row_number().over(by_user.orderBy(*order)))
        marked = marked.withColumn("size", F.count("*").over(by_user))
    marked = marked.withColumn("is_test", F.coalesce(is_test, F.lit(False)))
    columns = ["user_id", "item_id", "strength"]
    train = marked.where(~F.col("is_test")).select(*columns)
    return Fold(number, train, train, marked.where("is_test").select(*columns))


def _last_share(order: Column, share: float) -> Column:
    """Hold out the last ``share`` of each user's order, rounded, and never a user's only interaction."""
    held = F.least(F.round(F.col("size") * share), F.col("size") - 1)
    return order > F.col("size") - held


def _hash(seed: int, *columns: str) -> Column:
    return F.xxhash64(*columns, F.lit(seed))


def _unit(hashed: Column) -> Column:
    """Map a hash to [0, 1)."""
    return F.pmod(hashed, F.lit(1 << 30)) / float(1 << 30)


def _random_order(seed: int) -> list[Column]:
    return [_hash(seed, "user_id", "item_id"), F.col("item_id")]


def _require_times(interactions: DataFrame, split: str) -> None:
    if interactions.where("last_event_time is not null").isEmpty():
        raise InputError(
            f"evaluate.split is {split}, but the interactions have no event times; "
            "ingest events with a time column, or set evaluate.split to random_holdout"
        )


def _cut(interactions: DataFrame, config: Evaluate) -> object:
    ((cut, newest),) = interactions.agg(
        F.percentile_approx("last_event_time", 1 - config.holdout_fraction, PERCENTILE_ACCURACY),
        F.max("last_event_time"),
    ).collect()
    if cut == newest:
        raise InputError(
            f"evaluate.split is global_time, but the newest {config.holdout_fraction:.0%} of interactions all have the "
            f"same time ({newest}); set evaluate.split to random_holdout"
        )
    return cut
