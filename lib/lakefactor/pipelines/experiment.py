"""Experiment: an A/B test of model versions, from its start to what its outcomes say.

Who sees which variant is a matter of hashes (`lakefactor.contracts.assignment`): nothing is stored for it, and an
application asks `lakefactor query variant` or computes it. It reports who was exposed to what; outcomes are events.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.contracts import literal
from lakefactor.errors import ConfigError, InputError, TableError
from lakefactor.log import say, show
from lakefactor.metrics.experiment import SUSPECT
from lakefactor.pipelines.experiment_analysis import Effect, analyse, effects_table
from lakefactor.pipelines.models import newest
from lakefactor.spark.exposures import take_in
from lakefactor.spark.tables import Tables

Action = Literal["start", "expose", "analyse", "stop"]


class ExperimentResult(BaseModel):
    """How an A/B test stands.

    Attributes
    ----------
    experiment : str
    running : bool
    exposed : int
        Users exposed so far.
    rejected : int
        Rows of this run that are not exposures; they are in `rejects`.
    sample_ratio_p_value : float or None
        None where it was not analysed, or without users.
    trusted : bool or None
        Whether the users are divided as planned; if not, no effect can be trusted.
    effects : list of Effect
    """

    model_config = ConfigDict(frozen=True)

    experiment: str
    running: bool
    exposed: int
    rejected: int = 0
    sample_ratio_p_value: float | None = None
    trusted: bool | None = None
    effects: list[Effect] = []


def run(spark: SparkSession, config: Config, action: Action, name: str, paths: Sequence[str] = ()) -> ExperimentResult:
    """Start an A/B test, take in its exposures, analyse it, or stop it; each may be done again and changes nothing.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``experiment``, for the start.
    action : {"start", "expose", "analyse", "stop"}
    name : str
    paths : sequence of str
        For ``expose``, and before ``analyse``: CSV, JSON lines, Parquet or Delta with ``user_id, variant, exposed_at``.

    Raises
    ------
    ConfigError
        The section says too little to start, or names a model version that there is not.
    InputError
        An experiment of that name was started otherwise or is stopped, or the exposures lack a column.
    TableError
        There is no such experiment.
    """
    if action == "expose" and not paths:
        raise InputError("experiment expose: give files or tables with user_id, variant, exposed_at")
    if action in ("start", "stop") and paths:
        raise InputError(f"experiment {action} takes no files; found {paths[0]!r}")
    tables = Tables(spark, config.tables)
    if action == "start":
        return _start(tables, config, name)
    experiment = found(tables, name)
    if action == "stop" and experiment["ended_at"] is None:
        experiment |= {"ended_at": datetime.now(timezone.utc)}
        row = spark.createDataFrame([experiment], tables.read("experiments").schema)
        tables.replace_where("experiments", row, f"experiment = {literal(name)}")
    rejected = sum(take_in(spark, config, name, sorted(experiment["variants"]), path) for path in paths)
    state = {
        "experiment": name,
        "running": experiment["ended_at"] is None,
        "exposed": tables.read("exposures").where(F.col("experiment") == name).count(),
        "rejected": rejected,
    }
    if action != "analyse":
        return ExperimentResult(**state)
    chance, effects = analyse(spark, tables, experiment)
    trusted = None if chance is None else chance >= SUSPECT
    if trusted is False:
        say(
            f"users are not divided as planned (p = {chance:.1g}): some were lost or added on the way, and no effect "
            "below can be trusted; find out why before anything else",
            "bold red",
        )
    show(effects_table(name, effects))
    return ExperimentResult(**state, sample_ratio_p_value=chance, trusted=trusted, effects=effects)


def found(tables: Tables, name: str) -> dict[str, Any]:
    """Return the row of an experiment.

    Raises
    ------
    TableError
        There is none of that name.
    """
    rows = tables.collect("experiments", {"experiment": name}) if tables.exists("experiments") else []
    if not rows:
        raise TableError(f"table experiments holds no {name!r}; 'lakefactor experiment start {name}' makes it")
    return rows[0]


def _start(tables: Tables, config: Config, name: str) -> ExperimentResult:
    wanted = config.experiment
    if not wanted.variants:
        raise ConfigError("experiment.variants is empty; name a model version for each variant, two or more")
    for variant, version in wanted.variants.items():
        try:
            newest(tables, version)
        except TableError as error:
            raise ConfigError(f"experiment.variants.{variant}: {error}") from None
    equal = dict.fromkeys(wanted.variants, 1 / len(wanted.variants))
    row = {
        "experiment": name,
        "variants": wanted.variants,
        "shares": wanted.shares or equal,
        "control": wanted.control,
        "outcomes": wanted.outcomes,
        "window_days": wanted.window_days,
        "planned_users": wanted.planned_users,
    }
    tables.ensure("experiments")
    tables.ensure("exposures", *tables.id_types("interactions"))
    before = next(iter(tables.collect("experiments", {"experiment": name})), None)
    if before is None:
        times = {"started_at": datetime.now(timezone.utc), "ended_at": None}
        tables.append_rows("experiments", [row | times], txn=(f"experiment-{name}", 0))
    elif before["ended_at"] is not None or any(before[key] != value for key, value in row.items()):
        how = "is stopped" if before["ended_at"] else "runs, with another definition"
        raise InputError(f"experiment {name!r} {how}; give another name, which is another assignment too")
    exposed = tables.read("exposures").where(F.col("experiment") == name).count()
    return ExperimentResult(experiment=name, running=True, exposed=exposed)
