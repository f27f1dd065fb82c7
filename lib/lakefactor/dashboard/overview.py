"""The first page: what is live, how good and how fresh it is, what happened last, what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from starlette.datastructures import QueryParams

from lakefactor.dashboard.page import Page, command
from lakefactor.dashboard.store import Look, live_row
from lakefactor.errors import LakefactorError
from lakefactor.pages.evaluation import Comparison, newest_evaluation
from lakefactor.query import stream_status

SHOWN = 6
"""Newest decisions, runs and changes."""

SHOWN_METRICS = 8

DECISION_COLUMNS = (
    "decided_at", "action", "model_version", "reason", "metric", "value", "live_value", "popularity_value",
)  # fmt: skip
DRIFT_COLUMNS = ("detected_at", "stream", "batch_id", "segment", "metric", "detector", "before", "after")
_RUN_COLUMNS = ("run_id", "model_version", "pipeline", "phase", "seconds", "logged_at")
_MODEL_COLUMNS = ("model_version", "created_at", "algorithm", "rank", "n_users", "n_items", "n_interactions")

T = TypeVar("T")


class Step(NamedTuple):
    """A step from events to a model that keeps fresh: whether its table is there, and what makes it."""

    table: str
    is_done: bool
    meaning: str
    command: str


class Card(NamedTuple):
    """A part of the page: what it shows, or why it cannot."""

    value: Any
    error: str = ""


def page(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return the overview. A table that cannot be read spoils its own part alone, and the status tells of it."""
    cards = {
        "steps": _card(lambda: steps(look)),
        "live": _card(lambda: _live(look)),
        "evaluation": _card(lambda: _evaluation(look)),
        "stream": _card(lambda: status_of(look)),
        "drift": _card(lambda: look.newest("drift", DRIFT_COLUMNS, "detected_at", SHOWN)),
        "decisions": _card(lambda: look.newest("decisions", DECISION_COLUMNS, "decided_at", SHOWN)),
        "runs": _card(lambda: _runs(look)),
    }
    failed = any(card.error for card in cards.values())
    context = {"cards": cards, "place": look.config.tables.root, "metric": look.config.publish.metric}
    return Page("overview.html", context, 503 if failed else 200)


def steps(look: Look) -> list[Step]:
    """Return the steps in their order."""
    rows = (
        ("events", "ingest PATH", "Raw events, checked; bad rows are told of"),
        ("models", "train", "A model version: factors of users and items"),
        ("evaluations", "evaluate", "How good it is on held-out data, beside popularity"),
        ("live_model", "publish", "The gate lets it become the live one"),
        ("recommendations", "recommend", "Lists for every user, items like each item"),
        ("stream_ledger", "stream", "New events are learned within seconds"),
    )
    return [Step(table, look.exists(table), said, command(look.config, stem)) for table, stem, said in rows]


def status_of(look: Look, stream: str | None = None) -> stream_status.StreamStatus:
    """Return how a stream is doing now."""
    name = stream or look.config.stream.name
    section = look.config.stream.model_copy(update={"name": name})
    return stream_status.status(look.config.model_copy(update={"stream": section}))


def _card(make: Callable[[], T]) -> Card:
    try:
        return Card(make())
    except LakefactorError as error:
        return Card(None, str(error))


def _live(look: Look) -> dict[str, Any] | None:
    version = look.live_version
    if version is None:
        return None
    published = look.hold("live", ["live_model"], lambda: live_row(look.lake)) or {}
    rows = look.rows("models", _MODEL_COLUMNS, model_version=version)
    if not rows:
        return None
    return rows[0] | published | {"batch_id": look.client().batch_id}


def _evaluation(look: Look) -> list[Comparison]:
    version = look.live_version
    if version is None:
        return []
    found = look.hold(("evaluation", version), ["evaluations"], lambda: newest_evaluation(look.lake, version))
    if found is None:
        return []
    return found.main(look.config.publish.metric)[:SHOWN_METRICS]


def _runs(look: Look) -> list[dict[str, Any]]:
    ends = [look.newest("run_log", _RUN_COLUMNS, "logged_at", SHOWN, phase=how) for how in ("total", "failed")]
    return sorted(chain(*ends), key=lambda row: row["logged_at"], reverse=True)[:SHOWN]
