"""Demo: every step on synthetic events or on a person's own file, told in plain words."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.table import Table
from rich.text import Text

from lakefactor.config import Config
from lakefactor.errors import GateRefusedError
from lakefactor.log import printable, say, show
from lakefactor.pipelines import evaluate, ingest, publish, recommend, train
from lakefactor.spark.tables import Tables
from lakefactor.synthetic import SCHEMA, Planted, generate_batches, plant

SHOWN_USERS = 3
SHOWN_ITEMS = 6
SHOWN_METRICS = ("ndcg_at_10", "precision_at_10", "recall_at_10", "hit_rate_at_10", "auc", "coverage_at_10", "rmse")


class DemoResult(BaseModel):
    """What the demo made, step by step."""

    model_config = ConfigDict(frozen=True)

    warehouse: str
    events: int
    rejected: int
    interactions: int
    model_version: str
    published: bool
    seconds_per_iteration: float
    metrics: dict[str, dict[str, float]]
    recommendations: int


def run(spark: SparkSession, config: Config, events: Path | None = None) -> DemoResult:
    """Run ingest, train, evaluate, publish and recommend, and show three users.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        Tables go to a folder of their own under ``tables.root``, so that a demo never mixes with other events.
    events : Path or None
        ``user,item[,rating or strength][,timestamp]``; None: synthetic events.

    Raises
    ------
    LakefactorError
        As the steps raise it.
    """
    config = _in_own_folder(config, events)
    tables = Tables(spark, config.tables)
    planted = None
    if events is None:
        planted = plant(config.synthetic)
        events = _write_synthetic(config)
    _title(f"1. Ingest {events}")
    ingested = ingest.run(spark, config, [str(events)])
    say(ingested.summary())
    made = ingested.interactions
    say(f"{made.pairs:,} interactions of {made.users:,} users and {made.items:,} items")

    _title(f"2. Train: {config.model.algorithm}, rank {config.model.rank}, {config.train.ranks} ranks")
    trained = train.run(spark, config)
    say(f"model version {trained.model_version}, {trained.seconds_per_iteration:.3f} s per iteration")

    config = _with_fitting_split(config, tables)
    _title(f"3. Evaluate: train again on a part ({config.evaluate.split}), rank the rest, beside popularity")
    evaluated = evaluate.run(spark, config, trained.model_version)
    show(_metrics_table(evaluated.metrics))

    _title("4. Publish, if the gate lets it pass")
    try:
        say(publish.run(spark, config, trained.model_version).reason)
        published = True
    except GateRefusedError as refusal:
        say(str(refusal))
        published = False

    _title("5. Recommend")
    recommended = recommend.run(spark, config, trained.model_version)
    for title, user_table in _users(tables, trained.model_version, planted):
        say(f"\n{title}")
        show(user_table)
    say(f"The tables are in {config.tables.root or config.tables.catalog}; ask for more, without Spark, by")
    say(f"  lakefactor query --help    (and --set tables.root={config.tables.root})")
    return DemoResult(
        warehouse=config.tables.root or config.tables.catalog,
        events=ingested.read,
        rejected=ingested.rejected,
        interactions=made.pairs,
        model_version=trained.model_version,
        published=published,
        seconds_per_iteration=trained.seconds_per_iteration,
        metrics=evaluated.metrics,
        recommendations=recommended.recommendations,
    )


def _in_own_folder(config: Config, events: Path | None) -> Config:
    if not config.tables.root:
        return config
    name = (events.name.split(".")[0] or events.name.strip(".")) if events else "demo"
    tables = config.tables.model_copy(update={"root": f"{config.tables.root.rstrip('/')}/{name}"})
    return config.model_copy(update={"tables": tables})


def _write_synthetic(config: Config) -> Path:
    """Write the generated events where a person can look at them."""
    folder = Path(config.tables.root or "warehouse")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "synthetic-events.parquet"
    _title(f"0. Generate {config.synthetic.events} events of {config.synthetic.users} users")
    with pq.ParquetWriter(file, SCHEMA) as writer:
        for batch in generate_batches(config.synthetic):
            writer.write_batch(batch)
    say(
        f"{config.synthetic.groups} planted taste groups, popularity by a power law, "
        f"{config.synthetic.drift:.0%} of the users change their taste halfway; in {file}"
    )
    return file


def _with_fitting_split(config: Config, tables: Tables) -> Config:
    """Hold out at random where the events carry no time to split by."""
    distinct_times = tables.read("interactions").select("last_event_time").dropna().distinct().limit(2).count()
    if distinct_times > 1 or config.evaluate.split not in ("global_time", "leave_last_out"):
        return config
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"split": "random_holdout"})})


def _title(text: str) -> None:
    say(f"\n{text}", style="bold")


def _metrics_table(metrics: dict[str, dict[str, float]]) -> Table:
    table = Table("metric", *metrics, box=None)
    for name in SHOWN_METRICS:
        if any(name in figures for figures in metrics.values()):
            values = (f"{figures[name]:.4f}" if name in figures else "" for figures in metrics.values())
            table.add_row(name, *values)
    return table


def _users(tables: Tables, model_version: str, planted: Planted | None) -> list[tuple[str, Table]]:
    """Return, of three users, a title and what they know best beside what they are recommended."""
    top = tables.read("recommendations").where(F.col("model_version") == model_version)
    users = [row.user_id for row in top.select("user_id").distinct().orderBy("user_id").limit(SHOWN_USERS).collect()]
    shown = []
    for user in users:
        known = tables.read("interactions").where(F.col("user_id") == user)
        known_rows = known.orderBy(F.desc("strength"), "item_id").limit(SHOWN_ITEMS).collect()
        top_rows = top.where(F.col("user_id") == user).orderBy("position").limit(SHOWN_ITEMS).collect()
        title = _user_title(user, [row.item_id for row in top_rows], planted)
        table = Table("knows", "strength", "is recommended", "score", box=None)
        for position in range(max(len(known_rows), len(top_rows))):
            left = known_rows[position] if position < len(known_rows) else None
            right = top_rows[position] if position < len(top_rows) else None
            table.add_row(
                _item(left and left.item_id, planted),
                f"{left.strength:.2f}" if left else "",
                _item(right and right.item_id, planted),
                f"{right.score:.3f}" if right else "",
            )
        shown.append((title, table))
    return shown


def _user_title(user: object, items: list[str], planted: Planted | None) -> str:
    if planted is None:
        return f"user {user}"
    groups = ", ".join(map(str, sorted(planted.groups_of_user(str(user)))))
    hits = planted.n_in_own_groups(str(user), items)
    return f"user {user} likes groups {groups}: {hits} of {len(items)} recommendations are from them"


def _item(item: object, planted: Planted | None) -> Text:
    if item is None:
        return Text()
    # Text, not str: an id is never markup.
    return Text(printable(str(item) if planted is None else f"{item} (group {planted.group_of_item(str(item))})"))
