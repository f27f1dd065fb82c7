"""Demo: every step on synthetic events or on a person's own file, told in plain words."""

from __future__ import annotations

import csv
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.table import Table
from rich.text import Text

from lakefactor.config import Config, Ingest
from lakefactor.errors import GateRefusedError
from lakefactor.factorization.live_model import STREAMED
from lakefactor.log import printable, say, show
from lakefactor.pipelines import evaluate, ingest, publish, recommend, stream, train
from lakefactor.pipelines.models import newest
from lakefactor.spark.tables import Tables
from lakefactor.synthetic import SCHEMA, Planted, generate_batches, plant

SHOWN_USERS = 3
SHOWN_ITEMS = 6
STREAMED_EVENTS = 6
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
    streamed_events: int


def run(spark: SparkSession, config: Config, events: Path | None = None) -> DemoResult:
    """Run ingest, train, evaluate, publish, recommend and stream, and show three users.

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
    streamed = 0
    if published and config.model.algorithm in STREAMED:
        streamed = _stream(spark, config, tables, trained.model_version, planted)
    say(f"\nThe tables are in {config.tables.root or config.tables.catalog}; ask for more, without Spark, by")
    say(f"  lakefactor query --help    (and --set tables.root={config.tables.root})")
    if published and config.tables.root:
        say("See models, users and items as pages, and ask over HTTP, by")
        say(f"  lakefactor serve --set tables.root={config.tables.root}")
        say(f"and open http://{config.serve.host}:{config.serve.port}/")
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
        streamed_events=streamed,
    )


def _stream(spark: SparkSession, config: Config, tables: Tables, model_version: str, planted: Planted | None) -> int:
    """Let one user take up what another one is recommended, and show how its own list changes; return the events."""
    lists = {user: _list(tables, model_version, user) for user in _shown_users(tables, model_version)}
    user, *others = lists
    before = lists[user]
    foreign = [item for other_user in reversed(others) for item in lists[other_user] if item not in before]
    if not foreign:
        return 0
    _title("6. Stream: new events change a user's recommendations within seconds")
    landing = Path(config.tables.root or ".").absolute() / "landing"
    landing.mkdir(parents=True, exist_ok=True)
    value = newest(tables, model_version).max_strength  # as strong as anything that the model has seen
    with (landing / f"{model_version}.csv").open("w", newline="") as file:
        rows = ((user, item, value) for item in foreign[:STREAMED_EVENTS])
        csv.writer(file).writerows([("user", "item", "value"), *rows])
    plain = Ingest(format="csv", min_value=config.ingest.min_value, max_value=config.ingest.max_value)
    settings = config.stream.model_copy(update={"source": "files", "path": str(landing)})
    result = stream.run(spark, config.model_copy(update={"ingest": plain, "stream": settings}), available_now=True)
    after = _list(tables, model_version, user)
    taken = ", ".join(str(_item(item, planted)) for item in foreign[:STREAMED_EVENTS])
    say(f"user {printable(str(user))} took up {taken}")
    table = Table("was recommended", "is recommended now", box=None)
    for old, new in zip_longest(before, after):
        table.add_row(_item(old, planted), _item(new, planted))
    show(table)
    return result.accepted


def _shown_users(tables: Tables, model_version: str) -> list[Any]:
    top = tables.read("recommendations").where(F.col("model_version") == model_version)
    return [row.user_id for row in top.select("user_id").distinct().orderBy("user_id").limit(SHOWN_USERS).collect()]


def _list(tables: Tables, model_version: str, user: Any) -> list[Any]:
    """Return the first items that a user is recommended."""
    rows = tables.read("recommendations").where((F.col("model_version") == model_version) & (F.col("user_id") == user))
    return [row.item_id for row in rows.orderBy("position").limit(SHOWN_ITEMS).collect()]


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
    shown = []
    for user in _shown_users(tables, model_version):
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
