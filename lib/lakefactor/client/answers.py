"""What a client answers: rows, and what they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Basis = Literal["user", "items", "item", "popular", "category", "catalogue"]
"""What an answer goes by: the user's own factors, factors folded in from items, an item's factors, the popularity of
all items or of those of a category, or the catalogue as a whole."""


@dataclass(frozen=True)
class Answer:
    """Rows of one model version.

    Attributes
    ----------
    rows : pyarrow Table
        The columns that the method names.
    model_version : str
        The version that the answer is of.
    batch_id : int
        Last micro-batch that the version had learned from; -1: none.
    basis : str
        What it goes by: ``user``, ``items``, ``item``, ``popular``, ``category`` or ``catalogue``.
    """

    rows: pa.Table
    model_version: str
    batch_id: int
    basis: Basis

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas DataFrame."""
        return self.rows.to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """Return the rows as a Polars DataFrame; Polars must be installed."""
        import polars

        frame = polars.from_arrow(self.rows)
        assert isinstance(frame, polars.DataFrame)
        return frame

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the rows as dicts."""
        rows: list[dict[str, Any]] = self.rows.to_pylist()
        return rows


@dataclass(frozen=True)
class Explanation(Answer):
    """Why a user's score of an item is what it is.

    ``rows`` are ``item_id, strength, contribution``: what each interaction adds, largest first.

    Attributes
    ----------
    score : float
        ``base`` plus all contributions: the score of the user whose interactions these are.
    base : float
        What the user has no say in: mean and the item's bias; 0 for implicit models.
    stored_score : float or None
        The score by the user's factors in the tables. It is ``score`` unless the model has yet to learn some of the
        interactions, or learned them by a rule that is not exact; None where the user has no factors.
    """

    score: float
    base: float
    stored_score: float | None
