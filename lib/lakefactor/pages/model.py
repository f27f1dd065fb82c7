"""What there is to say about one model version: for its page in the dashboard, and for the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lakefactor.client.loaded import LoadedModel, load_model
from lakefactor.config import HIDDEN, Config, Tables
from lakefactor.config.fields import secrets
from lakefactor.errors import TableError, UnknownIdError
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.pages.charts import Chart, Series, line_chart
from lakefactor.pages.evaluation import Evaluation, newest_evaluation
from lakefactor.pages.numbers import identifier
from lakefactor.query import Reader
from lakefactor.query.lake import Lake
from lakefactor.query.reader import live_version

SHOWN_ITEMS, SHOWN_NEIGHBOURS = 8, 5
SHOWN_DOTS = 300

_COLUMNS = ("model_version", "created_at", "algorithm", "rank", "config", "seed", "input_versions", "library_versions",
            "n_users", "n_items", "n_interactions", "mean", "min_strength", "max_strength", "objective",
            "objective_history", "aligned_to", "alignment_cosine", "train_seconds", "removed_at")  # fmt: skip


class Setting(NamedTuple):
    """A key of a recorded configuration, with its value as text; `is_default`: as it would be if nobody had set it."""

    key: str
    value: str
    is_default: bool


class Neighbours(NamedTuple):
    """An item, its interactions, and the items most similar to it."""

    item: str | int
    n_entries: int
    similar: list[dict[str, Any]]


@dataclass(frozen=True)
class ModelPage:
    """A model version, as a page shows it.

    Attributes
    ----------
    row : dict
        Of the table `models`.
    is_live : bool
    evaluation : Evaluation or None
    objective : Chart or None
        None: the training recorded no history.
    spectrum, norms : Chart or None
        None: the factors have been removed.
    neighbours : list of Neighbours
        Of the items with the most interactions.
    settings : list of Setting
    """

    row: dict[str, Any]
    is_live: bool
    evaluation: Evaluation | None
    objective: Chart | None
    spectrum: Chart | None
    norms: Chart | None
    neighbours: list[Neighbours]
    settings: list[Setting]

    @property
    def version(self) -> str:
        """Its name."""
        return str(self.row["model_version"])

    def segments(self, metric: str) -> Chart | None:
        """Return a metric by segment; None: it was not measured."""
        return None if self.evaluation is None else self.evaluation.segment_chart(metric)


def read_model_page(lake: Lake, version: str) -> ModelPage:
    """Read what there is of a model version.

    Raises
    ------
    UnknownIdError
        There is no such version.
    TableError
        A table is missing or cannot be read.
    """
    rows = lake.rows("models", _COLUMNS, {"model_version": version}).to_pylist(maps_as_pydicts="lossy")
    if not rows:
        raise UnknownIdError(f"there is no model version {version!r} in table models")
    row = rows[0]
    model = None if row["removed_at"] else load_model(lake, version)
    return ModelPage(
        row,
        version == live_version(lake),
        newest_evaluation(lake, version),
        objective_chart(row["objective_history"]),
        spectrum_chart(model.catalogue.factors) if model else None,
        norm_chart(model.catalogue) if model else None,
        neighbours(model) if model else [],
        settings(row["config"]),
    )


def named_version(tables: Tables, given: str) -> str:
    """Return the version that a person means by a name, ``live`` or ``newest``; its factors may have been removed.

    Raises
    ------
    UnknownIdError
        There is no such version.
    TableError
        None is live, or none is there.
    """
    if given == "live":
        return Reader(tables).resolve(None)
    rows = Lake(tables).rows("models", ["model_version", "created_at"]).to_pylist()
    if given == "newest":
        if not rows:
            raise TableError("table models is empty; 'lakefactor train' makes a model version")
        return str(max(rows, key=lambda row: (row["created_at"], row["model_version"]))["model_version"])
    if given not in (row["model_version"] for row in rows):
        Reader(tables).resolve(given)  # refuses it, and says what is near
    return given


def objective_chart(history: list[float]) -> Chart | None:
    """Return the objective after each iteration; None: there are none."""
    if not history:
        return None
    points = list(enumerate(history, start=1))
    described = "What the training minimises; it may only fall where half-steps are exact."
    return line_chart(
        "Objective by iteration",
        [Series("objective", points)],
        description=described,
        x_name="iteration",
        log_y=min(history) > 0 and max(history) > 20 * min(history),
        style="marked" if len(points) <= 60 else "line",
    )


def singular_values(factors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the singular values of a factor matrix, largest first, by way of its Gramian in float64.

    >>> singular_values(np.array([[3, 0], [0, 4], [0, 0]], np.float32))
    array([4., 3.])
    """
    tall = factors.astype(np.float64)
    return np.sqrt(np.clip(np.linalg.eigvalsh(tall.T @ tall), 0, None))[::-1]


def spectrum_chart(factors: NDArray[np.float32]) -> Chart:
    """Return the singular values of the item factors: how many directions the model really uses."""
    values = singular_values(factors)
    energy = values**2
    half = int(np.searchsorted(np.cumsum(energy), 0.9 * energy.sum())) + 1
    points = [(float(n), float(value)) for n, value in enumerate(values, start=1)]
    return line_chart(
        "Spectrum of the item factors",
        [Series("singular value", points)],
        description=f"{half} of {len(values)} directions hold 90 % of the squared length of all item factors.",
        x_name="direction",
        from_zero=True,
        style="area",
    )


def norm_chart(catalogue: Catalogue) -> Chart:
    """Return how long the factors of popular and of rare items are: whether the scores follow popularity."""
    norms = np.linalg.norm(catalogue.factors.astype(np.float64), axis=1)
    order = np.argsort(catalogue.n_entries, kind="stable")
    order = order[catalogue.n_entries[order] > 0]
    chosen = order[np.unique(np.linspace(0, len(order) - 1, SHOWN_DOTS).astype(int))] if len(order) else order
    points = [(float(catalogue.n_entries[i]), float(norms[i])) for i in chosen]
    seen = f"{len(chosen)} items, evenly by popularity" if len(chosen) < len(norms) else "Every item"
    return line_chart(
        "Popularity and length of factors",
        [Series("length", points)],
        description=f"{seen}: the longer an item's factors, the higher it can score for anybody.",
        x_name="interactions of the item",
        from_zero=True,
        log_x=True,
        style="dots",
    )


def neighbours(model: LoadedModel) -> list[Neighbours]:
    """Return the most popular items with those most similar to each."""
    items = model.catalogue
    columns = model.by_popularity[:SHOWN_ITEMS]
    return [
        Neighbours(
            items.ids[int(column)].as_py(),
            int(items.n_entries[column]),
            model.similar(int(column), SHOWN_NEIGHBOURS).to_pylist(),
        )
        for column in columns
    ]


def settings(recorded: str) -> list[Setting]:
    """Return every key of a recorded configuration, without what is secret.

    >>> settings('{"model":{"rank":7},"stream":{"kafka_options":{"password":"x"}}}')[1].value
    '{"password": "(hidden)"}'
    """
    defaults = Config().model_dump(mode="json")
    found = []
    for section, keys in json.loads(recorded).items():
        if not isinstance(keys, dict):
            continue
        for key, value in keys.items():
            name = f"{section}.{key}"
            if name in secrets():
                value = dict.fromkeys(value, HIDDEN) if isinstance(value, dict) else HIDDEN
            is_default = value == defaults.get(section, {}).get(key, value)
            found.append(Setting(name, identifier(json.dumps(value, ensure_ascii=False)), is_default))
    return found
