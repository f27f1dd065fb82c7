"""Sections on what is done with a model: measured, published, read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lakefactor.config.places import check_salt_folder
from lakefactor.config.section import Finite, NonNegative, Section, refuse


class Evaluate(Section):
    """How a model is measured on data that it was not trained on."""

    split: Literal["k_fold", "random_holdout", "leave_last_out", "global_time", "user_holdout"] = Field(
        "global_time",
        description="`k_fold` over interactions, `random_holdout` per user, each user's last (`leave_last_out`), "
        "the newest of all (`global_time`), or whole users that are only folded in (`user_holdout`).",
    )
    folds: int = Field(5, ge=2, le=100, description="Folds of `k_fold`; every fold is trained and measured.")
    holdout_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of interactions (or users) held out, except for `k_fold` and `leave_last_out`.",
    )
    ks: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (5, 10, 20), min_length=1, description="Cut-offs k of the ranking metrics."
    )
    relevant_min_value: Finite = Field(
        -1e9, description="Held-out interactions of at least this strength count as relevant."
    )
    seed: int = Field(1, ge=0, le=2**63 - 1, description="Seed of random splits.")
    light_user_max: int = Field(
        10, ge=1, le=1_000_000, description="Users with at most so many known interactions are light ones (a segment)."
    )
    replicates: int = Field(
        200, ge=0, le=10_000, description="Replicates of the bootstrap, by which figures have intervals; 0: none."
    )

    @model_validator(mode="after")
    def _agree(self) -> Evaluate:
        twice = len(set(self.ks)) < len(self.ks)
        return refuse(self, [f"evaluate.ks names a cut-off twice: {list(self.ks)}"] if twice else [])


class Publish(Section):
    """The quality gate in front of `live_model`."""

    metric: str = Field(
        "ndcg_at_10",
        pattern=r"^[a-z0-9_]+$",
        description="Metric that the gate compares (rmse and mae: lower is better).",
    )
    beat_popularity: bool = Field(True, description="Refuse a model that is no better than the popularity baseline.")
    max_relative_loss: float = Field(
        0.05, ge=0, le=1, description="Refuse a model that is worse than the live one by more than this share."
    )
    max_segment_loss: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Refuse a model that is worse than the live one by more than this share for a segment of users or "
        "items: surely, by the 95 % interval, and both measured on the same interactions.",
    )
    min_coverage: float = Field(
        0.0, ge=0, le=1, description="Refuse a model whose lists show a smaller share of the items (`coverage_at_k`)."
    )
    max_exposure_gini: float = Field(
        1.0, ge=0, le=1, description="Refuse a model whose lists show items more unequally (`exposure_gini_at_k`)."
    )
    max_popularity: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Refuse a model whose lists are more popular than this share of the popularity of the most popular "
        "items (`mean_popularity_at_k`).",
    )
    require_evaluation: bool = Field(True, description="Refuse a model without a recorded evaluation.")


class Quality(Section):
    """The live model under watch: when to go back, and when to train again."""

    metric: str = Field(
        "",
        pattern=r"^((recall_at_[0-9]+|ndcg_at_[0-9]+|rmse)(\.[a-z_]+)?)?$",
        description="Prequential metric in `stream_ledger`, as `recall_at_10`, or of a segment, as "
        "`recall_at_10.new_users`. Empty: `rmse` for ratings, else NDCG at `stream.watch_k`.",
    )
    window: int = Field(
        30, ge=1, le=1_000_000, description="Micro-batches before and after a publish whose means are compared."
    )
    max_relative_loss: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Go back where the live model is worse than the one before by more than so much.",
    )
    cool_down: int = Field(
        30,
        ge=0,
        le=1_000_000,
        description="Micro-batches that a published model is given before drift calls for another training.",
    )


class Recommend(Section):
    """Top-N lists and similar items."""

    n: int = Field(20, ge=1, le=10_000, description="Items per user.")
    exclude_seen: bool = Field(True, description="Leave out items that the user has interacted with.")
    users: tuple[str, ...] = Field((), description="Only these users; empty: all users.")
    allow_items: tuple[str, ...] = Field((), description="Recommend only these items; empty: all.")
    deny_items: tuple[str, ...] = Field((), description="Never recommend these items.")
    allow_categories: tuple[str, ...] = Field(
        (), description="Recommend only items of these categories (table `items`); empty: all."
    )
    deny_categories: tuple[str, ...] = Field((), description="Never recommend items of these categories.")
    max_per_category: int = Field(
        0, ge=0, description="Most items of one category in a list; 0: no bound. Items without a category are free."
    )
    popularity_discount: NonNegative = Field(
        0.0,
        description="d: items are ranked by score - d ln(1 + n), with n the item's interactions (d in units of the "
        "score); what is written is the score. 0: by score.",
    )
    diversity: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="d: each next item has the largest (1 - d) relevance - d (largest cosine to those before it) among "
        "the best 5 n (maximal marginal relevance). 0: by score.",
    )
    similar_n: int = Field(20, ge=0, le=10_000, description="Similar items kept per item; 0 leaves the table alone.")
    backend: Literal["auto", "numba", "torch"] = Field(
        "auto",
        description="Products of factors: by `numba` on the CPU, by `torch` on a GPU (or a CPU), or, `auto`, by torch "
        "where the task has a GPU. The lists are the same.",
    )
    user_block_rows: int = Field(256, ge=1, le=1_000_000, description="Users scored in one matrix product (rows).")
    item_block_rows: int = Field(2048, ge=1, le=10_000_000, description="Items scored in one matrix product (rows).")


class Explain(Section):
    """Why a recommendation is there."""

    reasons: int = Field(3, ge=1, le=10_000, description="Most reasons for each item of a list.")


DELTA_HISTORY_HOURS = 168.0
"""Below this Delta cannot tell a file that is no longer used from one that is being written."""


class Maintain(Section):
    """What stays of the tables' past: history, model versions, snapshots."""

    history_hours: NonNegative = Field(
        DELTA_HISTORY_HOURS,
        description="Hours for which rows that were replaced or deleted stay in the history of the tables; what the "
        "stream or a kept model version reads of it stays longer.",
    )
    alone: bool = Field(
        False,
        description="Nothing else reads or writes the tables meanwhile: needed for `history_hours` below 168, where a "
        "file that is just being written would be removed.",
    )
    keep_models: int = Field(
        3,
        ge=1,
        le=10_000,
        description="Newest model versions whose factors and lists stay, beside the live one and the one before it.",
    )
    small_files: int = Field(
        16, ge=1, le=1_000_000, description="A table with more files than this beyond one per 128 MB is compacted."
    )

    @model_validator(mode="after")
    def _agree(self) -> Maintain:
        if self.alone or self.history_hours >= DELTA_HISTORY_HOURS:
            return self
        return refuse(
            self,
            [
                f"maintain.history_hours {self.history_hours:g} is below {DELTA_HISTORY_HOURS:g}, which removes files "
                "that others are writing or reading; raise it, or see that nothing else uses the tables and set "
                "maintain.alone to true"
            ],
        )


class Forget(Section):
    """Users who are forgotten, and stay so."""

    salt_folder: Annotated[str, AfterValidator(check_salt_folder)] = Field(
        "",
        description="Folder or URI with the salt of the hashes in `suppressions`, made by the first `forget`. Empty: "
        "`_suppressions` under `tables.root`.",
    )
