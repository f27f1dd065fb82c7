"""Items of the live model solved anew from what is left of their interactions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.factorization.catalogue import as_lists
from lakefactor.factorization.micro_batch import solve_anew
from lakefactor.factorization.strengths import PairEvents
from lakefactor.pipelines.fold import fold
from lakefactor.pipelines.learned import NEVER, is_streamed
from lakefactor.pipelines.live import load_live
from lakefactor.pipelines.models import live_version, newest
from lakefactor.pipelines.refresh import replace_similar_items
from lakefactor.spark.catalogue import collect_catalogue
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables
from lakefactor.spark.touched import events_of


def solvable_live(tables: Tables) -> str | None:
    """Return the live version, if a row of it can be solved alone: its algorithm has an equation for a row.

    What its training was made of must be known, too.
    """
    live = live_version(tables)
    if live is None:
        return None
    return live if is_streamed(newest(tables, live)) else None


def resolve_items(
    spark: SparkSession, config: Config, tables: Tables, items: pa.Array, at: Callable[[str], None]
) -> str | None:
    """Solve items of the live model from the events of the users that it knows, and write them.

    Items that no such user has to do with any more leave the model, as they would not be in a new training. An
    optimizer begins anew with the others. Repeated, it writes the same bits: an item's solution depends on the users
    alone.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    tables : Tables
    items : pyarrow Array
        Ids, each once; those that the model does not know are passed over.
    at : callable
        Gets the name of each step once it is done.

    Returns
    -------
    str or None
        The version; None: none is live, or none of its rows can be solved alone.
    """
    version = solvable_live(tables)
    if version is None:
        return None
    fold(tables, version)
    at("fold")
    live = load_live(spark, config, version, NEVER)
    events = events_of(spark, config, "item", items, tables.version("events"))
    history = PairEvents(events, live.record.config, live.span).interactions()
    history = history.filter(pa.array(live.model.rows("item", history["item_id"]) >= 0))
    solved = solve_anew(live.model, "item", history, config.stream)
    live.model.replace("item", solved.rows, solved.factors, solved.n_entries)
    factors, bias = live.model.stored("item", solved.rows)
    n, kind = len(items), live.id_types["item"]
    number = {row: place for place, row in enumerate(solved.rows.tolist())}
    known = live.model.numbers("item", items.to_pylist())
    place = np.array([number.get(row, -1) for row in known.tolist()], np.int64)
    rank = live.record.config.model.rank
    factors, bias = np.vstack([factors, np.zeros((1, rank), factors.dtype)])[place], np.append(bias, 0)[place]
    rows = pa.table(
        {
            "model_version": pa.array([version] * n),
            "item_id": items.cast(kind),
            "factors": as_lists(factors),
            "bias": pa.array(bias, pa.float32()),
            "n_entries": pa.array(np.append(solved.n_entries, 0)[place]),
            "updated_at": pa.array([datetime.now(timezone.utc)] * n, pa.timestamp("us", "UTC")),
        }
    )
    _write(spark, tables, rows)
    at("item_factors")
    if tables.exists("similar_items"):
        catalogue = collect_catalogue(read_factors(tables, "item", version))
        replace_similar_items(spark, config, version, catalogue, items.cast(catalogue.ids.type))
        at("similar_items")
    return version


def _write(spark: SparkSession, tables: Tables, rows: pa.Table) -> None:
    """Write the items where they stand: their batch_id stays, and no update is newer after the fold."""
    frame, key = spark.createDataFrame(rows), ["model_version", "item_id"]
    if tables.exists("factor_updates"):
        tables.update("factor_updates", frame.select(*key), key, [], gone="true")
    values = [name for name in rows.column_names if name not in key]
    tables.update("item_factors", frame, key, values, gone="new.n_entries = 0")
