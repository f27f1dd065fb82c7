"""The training stage: interactions in, factor rows out.

One shuffle brings every interaction to the rank that owns its user; the ranks do the rest (``factorization.shard`` and
``factorization.als``) and each writes out the rows that it owns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakefactor.comm import Communicator
from lakefactor.config import Config
from lakefactor.errors import InputError
from lakefactor.factorization.shard import NOTHING_TO_TRAIN_ON
from lakefactor.spark.barrier import RankFunction, rank_errors, run_on_ranks
from lakefactor.spark.progress import Address, Listener, reporter
from lakefactor.spark.resources import training_profile
from lakefactor.types import SIDES, Side

OUTPUT_BATCH_ROWS = 8192

OnEvent = Callable[[dict[str, Any]], None]
"""Receives live events on the driver: ``{"phase": "load"|"iteration"|"write", ...}``."""


@dataclass(frozen=True)
class Trained:
    """Factor rows of a finished training, held by the executors.

    Attributes
    ----------
    rows : DataFrame
        Persisted; columns ``side, user_id, item_id, factors, bias, n_entries, log``. Free it with :meth:`release`.
    log : dict
        What rank 0 recorded: ``mean``, ``totals``, ``history`` (a list of iterations) and ``seconds`` per phase.
    """

    rows: DataFrame
    log: dict[str, Any]

    def factors(self, side: Side) -> DataFrame:
        """Return ``<side>_id, factors, bias, n_entries`` of all rows of a side."""
        return self.rows.where(F.col("side") == side).select(f"{side}_id", "factors", "bias", "n_entries")

    @cached_property
    def objective(self) -> float:
        """Objective after the last iteration."""
        return self.log["history"][-1]["objective"]

    def release(self) -> None:
        """Free the executors' copy."""
        self.rows.unpersist()


def train_interactions(interactions: DataFrame, config: Config, on_event: OnEvent = lambda event: None) -> Trained:
    """Factorize a table of interactions.

    Parameters
    ----------
    interactions : DataFrame
        ``user_id, item_id, strength``; each pair once. Read at a fixed version, since a repeated stage reads it again.
    config : Config
        Sections ``model``, ``train`` and ``sgd`` are used.
    on_event : callable
        Live progress, called on the driver.

    Raises
    ------
    InputError, SolveError, RankFailedError, SetupError
        As raised on a rank, or by :func:`run_on_ranks`.
    """
    spark = interactions.sparkSession
    ranks = config.train.ranks
    owned = interactions.select(
        "user_id",
        "item_id",
        F.col("strength").cast("float").alias("strength"),
        F.expr(f"cast(pmod(xxhash64(user_id), {ranks}) as int)").alias("owner"),
    )
    types = dict(interactions.dtypes)
    schema = (
        f"side string, user_id {types['user_id']}, item_id {types['item_id']}, "
        "factors array<float>, bias float, n_entries bigint, log string"
    )
    with Listener(str(spark.conf.get("spark.driver.host")), on_event) as address, rank_errors():
        function = _rank_function(config, address, _arrow_type(types["user_id"]), _arrow_type(types["item_id"]))
        profile = training_profile(spark, config.train)
        rows = run_on_ranks(owned, "owner", ranks, function, schema, config.train.timeout_seconds, profile)
        rows = rows.persist(StorageLevel.DISK_ONLY)
        logs = rows.where(F.col("side") == "log").select("log").collect()
    if not logs:  # Spark does not even start the stage where it knows that there are no rows
        raise InputError(NOTHING_TO_TRAIN_ON)
    return Trained(rows, json.loads(logs[0][0]))


def _rank_function(config: Config, address: Address, user_type: pa.DataType, item_type: pa.DataType) -> RankFunction:
    output = pa.schema(
        [
            ("side", pa.string()),
            ("user_id", user_type),
            ("item_id", item_type),
            ("factors", pa.list_(pa.float32())),
            ("bias", pa.float32()),
            ("n_entries", pa.int64()),
            ("log", pa.string()),
        ]
    )

    def on_rank(comm: Communicator, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # Imported here: the driver needs neither numba nor the kernels.
        from lakefactor.factorization.fitting import fit
        from lakefactor.factorization.shard import build_shard

        with reporter(address if comm.proc_rank == 0 else None) as report:
            start = perf_counter()
            report({"phase": "load"})
            shard = build_shard(comm, batches)
            loaded = perf_counter()
            trained = fit(
                shard,
                comm,
                config.model,
                config.train,
                lambda iteration: report({"phase": "iteration", **asdict(iteration)}),
                config.sgd,
            )
            fitted = perf_counter()
            report({"phase": "write"})
        for side in SIDES:
            rows = shard.rows[side]
            yield from _factor_batches(
                output, side, rows.ids, trained.factors[side], trained.bias[side], rows.n_entries
            )
        if comm.proc_rank == 0:
            log = {
                "mean": trained.mean,
                "totals": asdict(trained.totals),
                "history": [asdict(iteration) for iteration in trained.history],
                "seconds": {"load": loaded - start, "iterations": fitted - loaded},
            }
            yield pa.RecordBatch.from_pylist([{"side": "log", "log": json.dumps(log)}], schema=output)

    return on_rank


def _factor_batches(
    output: pa.Schema, side: Side, ids: pa.Array, factors: Any, bias: Any, n_entries: Any
) -> Iterator[pa.RecordBatch]:
    id_column = f"{side}_id"
    id_type = output.field(id_column).type
    for start in range(0, len(ids), OUTPUT_BATCH_ROWS):
        some = slice(start, min(start + OUTPUT_BATCH_ROWS, len(ids)))
        n, k = some.stop - start, factors.shape[1]
        lists = pa.ListArray.from_arrays(
            pa.array(range(0, (n + 1) * k, k), pa.int32()), pa.array(factors[some].ravel())
        )
        columns = {
            "side": pa.array([side] * n),
            id_column: ids.slice(start, n).cast(id_type),
            "factors": lists,
            "bias": pa.array(bias[some]),
            "n_entries": pa.array(n_entries[some]),
        }
        yield pa.record_batch(
            [columns[field.name] if field.name in columns else pa.nulls(n, field.type) for field in output],
            schema=output,
        )


def _arrow_type(spark_type: str) -> pa.DataType:
    return {"string": pa.string(), "bigint": pa.int64()}[spark_type]
