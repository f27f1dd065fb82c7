"""A small warehouse that delta-rs writes, in the types of the contracts: for tests that need tables and no Spark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from lakefactor import contracts
from lakefactor.config import Config, canonical_json, changed
from lakefactor.contracts import IdType
from lakefactor.factorization.strengths import Span

_ARROW = {
    "STRING": pa.string(),
    "BINARY": pa.binary(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "ARRAY<FLOAT>": pa.list_(pa.float32()),
    "ARRAY<DOUBLE>": pa.list_(pa.float64()),
    "MAP<STRING,BIGINT>": pa.map_(pa.string(), pa.int64()),
    "MAP<STRING,DOUBLE>": pa.map_(pa.string(), pa.float64()),
    "MAP<STRING,STRING>": pa.map_(pa.string(), pa.string()),
}
_FILL = {
    "STRING": "x",
    "BINARY": bytes(16),
    "TIMESTAMP": datetime(2026, 11, 20, 8, tzinfo=timezone.utc),
    "INT": 0,
    "BIGINT": 0,
    "FLOAT": 0.0,
    "DOUBLE": 0.0,
    "ARRAY<FLOAT>": [0.0],
    "ARRAY<DOUBLE>": [0.0],
    "MAP<STRING,BIGINT>": [],
    "MAP<STRING,DOUBLE>": [],
    "MAP<STRING,STRING>": [],
}


def append(root: Path, table: str, rows: Sequence[dict[str, Any]], ids: IdType = "string") -> None:
    """Append rows to a table of `root`; columns that a row leaves out get a value that no test looks at."""
    contract = contracts.load(table)
    types = contract.column_types(ids, ids)
    nullable = {column.name for column in contract.columns if column.nullable}
    filled = [
        {name: row.get(name, None if name in nullable else _FILL[kind]) for name, kind in types.items()} for row in rows
    ]
    schema = pa.schema([(name, _ARROW[kind]) for name, kind in types.items()])
    write_deltalake(str(root / table), pa.Table.from_pylist(filled, schema=schema), mode="append")


AWKWARD = (
    "plain",
    "a/b",
    "/lead",
    "trail/",
    "..",
    ".",
    "it's",
    '"quoted"',
    "<b>bold</b>",
    "&amp;",
    "x?y#z",
    "50%25",
    "a+b c",
    " blank",
    "日本語",
    "e\u0301",
    "line\nfeed",
    "rtl\u202eid",
    "back\\slash",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
    "ü" * 90,
)
"""Ids that addresses, HTML, templates and people read in other ways than they are meant."""

OLD, LIVE, REFUSED = "20261118-080000-aaaa", "20261120-080000-bbbb", "20261122-080000-cccc"
RANK = 3
START = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)
SEGMENTS = ("all", "new_users", "light_users", "heavy_users", "popular_items", "tail_items")


class Warehouse:
    """Three model versions, one of them live, with everything that pages show of them.

    Users and items are `AWKWARD`; user n has viewed the items n, n + 1 and n + 2. Factors are random.

    Attributes
    ----------
    root : Path
    config : Config
    items, users : float32 ndarrays, shape (m, RANK)
        Factors of the live version.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = changed(Config(), {"tables.root": str(root), "model.rank": RANK, "model.alpha": 2.0})
        random = np.random.default_rng(3)
        m = len(AWKWARD)
        self.items = random.normal(size=(m, RANK)).astype(np.float32)
        self.users = random.normal(size=(m, RANK)).astype(np.float32)
        self.n_entries = [3 + n for n in range(m)]
        self.seen = {n: [(n + k) % m for k in range(3)] for n in range(m)}
        self._models()
        self._events()
        self._evaluations()
        self._lists()
        self._stream()
        self._experiment()

    def best(self, n: int, k: int) -> list[str]:
        """Return the k items that a user is recommended, by numpy in float64."""
        scores = self.items.astype(np.float64) @ self.users[n].astype(np.float64)
        order = [i for i in np.argsort(-scores) if i not in self.seen[n]]
        return [AWKWARD[i] for i in order[:k]]

    def _put(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        append(self.root, table, rows)

    def _models(self) -> None:
        made_from = json.dumps({"span": Span(frozenset({"view"}), None, None).record()})
        history = [900.0 / n + 100 for n in range(1, 11)]
        model = {
            "algorithm": "implicit_als",
            "rank": RANK,
            "config": canonical_json(self.config),
            "seed": 1,
            "input_versions": [("interactions", 4)],
            "made_from": made_from,
            "library_versions": [("numpy", "2.0")],
            "n_users": len(AWKWARD),
            "n_items": len(AWKWARD),
            "n_interactions": 3 * len(AWKWARD),
            "min_strength": 1.0,
            "max_strength": 3.0,
            "objective": history[-1],
            "objective_history": history,
            "train_seconds": 91.5,
        }
        days = {OLD: -2, LIVE: 0, REFUSED: 2}
        removed = {OLD: START}
        self._put(
            "models",
            [
                model
                | {
                    "model_version": version,
                    "created_at": START + timedelta(days=day),
                    "removed_at": removed.get(version),
                }
                for version, day in days.items()
            ],
        )
        self._put(
            "live_model", [{"name": "default", "model_version": LIVE, "previous_version": OLD, "published_at": START}]
        )
        for side, factors in (("item", self.items), ("user", self.users)):
            self._put(
                f"{side}_factors",
                [
                    {"model_version": version, f"{side}_id": name, "factors": row, "n_entries": count, "batch_id": -1}
                    for version in (LIVE, REFUSED)
                    for name, row, count in zip(AWKWARD, factors, self.n_entries, strict=True)
                ],
            )
        decisions = (
            (OLD, "publish", 0.20, None, -2),
            (LIVE, "publish", 0.25, 0.20, 0),
            (REFUSED, "refuse", 0.18, 0.25, 2),
        )
        self._put(
            "decisions",
            [
                {
                    "decision_id": f"d{n}",
                    "model_version": version,
                    "action": action,
                    "reason": f"reason <{n}>",
                    "value": value,
                    "live_value": live,
                    "popularity_value": 0.1,
                    "metric": "ndcg_at_10",
                    "decided_at": START + timedelta(days=day),
                }
                for n, (version, action, value, live, day) in enumerate(decisions)
            ],
        )
        self._put(
            "run_log",
            [
                {
                    "run_id": version,
                    "model_version": version,
                    "pipeline": "train",
                    "phase": phase,
                    "seconds": 91.5,
                    "attempt": 1,
                    "logged_at": START + timedelta(days=days[version]),
                }
                for version, phase in ((LIVE, "total"), (LIVE, "stage"), (REFUSED, "failed"))
            ],
        )

    def _events(self) -> None:
        pairs = [(n, i) for n, items in self.seen.items() for i in items]
        self._put(
            "events",
            [
                {
                    "event_id": f"event-number-{number:03d}".encode(),
                    "user_id": AWKWARD[n],
                    "item_id": AWKWARD[i],
                    "event_type": "view",
                    "value": 1.0 + (n + i) % 3,
                    "event_time": START + timedelta(minutes=number),
                }
                for number, (n, i) in enumerate(pairs)
            ],
        )
        self._put("interactions", [{"user_id": AWKWARD[n], "item_id": AWKWARD[i], "strength": 1.0} for n, i in pairs])
        reasons = ["the user is empty", "the value <much> is no number", "the user is empty"]
        self._put("rejects", [{"reject_id": bytes([n] * 16), "reason": reason} for n, reason in enumerate(reasons)])

    def _evaluations(self) -> None:
        spread = np.linspace(-0.02, 0.02, 41)
        figures = {OLD: (0.20, 0.1), LIVE: (0.25, 0.1), REFUSED: (0.18, 0.1)}
        self._put(
            "evaluations",
            [
                {
                    "model_version": version,
                    "evaluation_id": f"e-{version}",
                    "evaluated_at": START,
                    "split": "global_time",
                    "interactions_version": 4,
                    "fold": -1,
                    "recommender": recommender,
                    "metric": metric,
                    "segment": segment,
                    "k": k,
                    "value": value + 0.01 * n,
                    "n": 1000,
                    "replicates": [] if metric == "coverage" else spread + value,
                }
                for version, values in figures.items()
                for recommender, value in zip(("model", "popularity"), values, strict=True)
                for n, segment in enumerate(SEGMENTS)
                for metric, k in (("ndcg", 10), ("recall", 10), ("ndcg", 20), ("auc", 0), ("coverage", 10))
            ],
        )

    def _lists(self) -> None:
        self._put(
            "recommendations",
            [
                {"model_version": LIVE, "user_id": AWKWARD[n], "position": place, "item_id": name, "score": 1.0 / place}
                for n in range(len(AWKWARD))
                for place, name in enumerate(self.best(n, 4), start=1)
            ],
        )

    def _stream(self) -> None:
        self._put(
            "stream_ledger",
            [
                {
                    "stream": name,
                    "source": "files",
                    "batch_id": n,
                    "model_version": OLD if n < 4 else LIVE,
                    "read": 12,
                    "accepted": 10,
                    "duplicates": 1,
                    "rejected": 1,
                    "acted": [("capped_events", 2)],
                    "metrics": [("ndcg_at_10", 0.1 + 0.01 * n), ("ndcg_at_10.new_users", 0.05)],
                    "seconds": [("learn", 0.5), ("total", 2.0)],
                    "newest_event_time": START,
                    "started_at": START + timedelta(seconds=10 * n),
                    "finished_at": START + timedelta(seconds=10 * n + 3),
                }
                for name, batches in (("default", 12), ("other", 1))
                for n in range(batches)
            ],
        )
        self._put(
            "drift",
            [
                {
                    "stream": "default",
                    "batch_id": 7,
                    "model_version": LIVE,
                    "segment": segment,
                    "metric": "ndcg_at_10",
                    "detector": "adwin",
                    "before": 0.2,
                    "after": 0.1,
                    "detected_at": START,
                }
                for segment in ("all", "new_users")
            ],
        )

    def _experiment(self) -> None:
        variants = {"control": OLD, "new": LIVE}
        self._put(
            "experiments",
            [
                {
                    "experiment": name,
                    "variants": list(variants.items()),
                    "shares": [(one, 0.5) for one in variants],
                    "control": "control",
                    "outcomes": [("view", 1.0)],
                    "window_days": 7.0,
                    "planned_users": 1000,
                    "started_at": START,
                    "ended_at": None,
                }
                for name in ("ranks", "<i>not yet</i>")
            ],
        )
        control = {"variant": "control", "users": 500, "value": 0.5}
        new = {
            "variant": "new",
            "users": 400,
            "value": 0.55,
            "difference": 0.05,
            "low": 0.02,
            "high": 0.08,
            "p_value": 0.001,
            "any_time_low": 0.01,
            "any_time_high": 0.09,
        }
        self._put(
            "experiment_results",
            [
                row
                | {
                    "experiment": "ranks",
                    "analysis_id": "a",
                    "analysed_at": START,
                    "metric": "users_with_outcome",
                    "sample_ratio_p_value": 0.0009,
                }
                for row in (control, new)
            ],
        )
