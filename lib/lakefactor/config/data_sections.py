"""Sections on data: where the tables are, and how raw events become interactions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lakefactor.config.places import check_catalog, check_metastore, check_root
from lakefactor.config.section import EventType, Finite, NonNegative, Positive, Section, refuse

IdType = Literal["auto", "string", "long"]


class Tables(Section):
    """Where the Delta tables live."""

    root: Annotated[str, AfterValidator(check_root)] = Field(
        "warehouse", description="Folder or URI that holds one Delta table per folder. Empty: use `catalog`."
    )
    catalog: Annotated[str, AfterValidator(check_catalog)] = Field(
        "", description="`catalog.schema` (or `schema`) that holds the tables by name; used when `root` is empty."
    )
    metastore: Annotated[str, AfterValidator(check_metastore)] = Field(
        "",
        description="Hive metastore of `catalog`, as `thrift://host:9083` (several: commas between). Spark and what "
        "reads without Spark ask it where the tables are. Empty: Spark's own setting, and no reading without Spark.",
    )
    user_id_type: IdType = Field(
        "auto",
        description="Type of user ids: `string`, `long`, or `auto` (typed files decide; text files give `string`).",
    )
    item_id_type: IdType = Field("auto", description="Type of item ids, as `user_id_type`.")

    @model_validator(mode="after")
    def _one_place(self) -> Tables:
        if bool(self.root) == bool(self.catalog):
            found = "both are set" if self.root else "both are empty"
            raise ValueError(f'set exactly one of tables.root and tables.catalog, the other to "": {found}')
        if self.root and self.metastore:
            raise ValueError("tables.metastore says where the tables of tables.catalog are; tables.root needs none")
        return self


class Spark(Section):
    """The Spark session, where spark-submit has not decided already."""

    master: str = Field("local[*]", description="Spark master for `lakefactor ...`; spark-submit's --master wins.")
    driver_memory: str = Field(
        "4g",
        pattern=r"^[1-9][0-9]*[mg]$",
        description="Driver heap, as `4g`; only used when lakefactor starts the JVM itself.",
    )
    shuffle_partitions: int = Field(
        8, ge=1, le=100_000, description="Partitions of a shuffle in the steps around training."
    )


class Ingest(Section):
    """How raw files become `events`."""

    format: Literal["auto", "csv", "json", "parquet", "delta"] = Field(
        "auto", description="Format of the input; `auto` goes by file name."
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="Field separator of CSV files (one character).")
    header: bool = Field(
        True,
        description="CSV files begin with a line of column names; without one the order is user, item, value, time.",
    )
    user_column: str = Field(
        "", description="Column with the user id; empty: found by its usual names (user, user_id, ...)."
    )
    item_column: str = Field(
        "", description="Column with the item id; empty: found by its usual names (item, item_id, ...)."
    )
    value_column: str = Field(
        "", description="Column with the rating or strength; empty: found by its usual names, else every value is 1."
    )
    time_column: str = Field(
        "",
        description="Column with the event time (ISO 8601, epoch seconds or milliseconds); "
        "empty: found by its usual names.",
    )
    type_column: str = Field(
        "", description="Column with the event type; empty: found by its usual names, else `default_event_type`."
    )
    default_event_type: EventType = Field("interaction", description="Event type of rows that carry none.")
    delete_event_type: EventType = Field("delete", description="Event type that removes the pair's earlier events.")
    event_weights: dict[EventType, NonNegative] = Field(
        default={"interaction": 1.0, "rating": 1.0, "view": 1.0, "click": 1.0, "cart": 3.0, "purchase": 5.0},
        description="Known event types and their strength per unit of value (dimensionless).",
    )
    min_value: Finite = Field(-1e9, description="Smallest value that is believed; a smaller one goes to `rejects`.")
    max_value: Finite = Field(1e9, description="Largest value that is believed; a larger one goes to `rejects`.")
    max_id_length: int = Field(1024, ge=1, le=65_536, description="Longest id in characters.")
    max_future_days: NonNegative = Field(
        1.0, description="How far (days) an event may lie after the clock before it is refused."
    )

    @model_validator(mode="after")
    def _agree(self) -> Ingest:
        problems = []
        if self.delimiter in '"\r\n':
            problems.append("ingest.delimiter must not be a quote or a line end")
        if self.min_value >= self.max_value:
            problems.append(f"ingest.min_value {self.min_value:g} must be below ingest.max_value {self.max_value:g}")
        if self.default_event_type not in self.event_weights:
            problems.append(f"ingest.default_event_type {self.default_event_type!r} is missing in ingest.event_weights")
        if self.delete_event_type in self.event_weights:
            problems.append(f"ingest.delete_event_type {self.delete_event_type!r} must not be in ingest.event_weights")
        named = [
            name
            for name in (self.user_column, self.item_column, self.value_column, self.time_column, self.type_column)
            if name
        ]
        if len(set(named)) < len(named):
            problems.append(f"ingest.*_column: one column is named twice: {', '.join(named)}")
        return refuse(self, problems)


class Items(Section):
    """What is known of items beside their events: a file of theirs, read by `items`."""

    item_column: str = Field("", description="Column of the item's id; empty: found by usual names.")
    category_column: str = Field("", description="Column of the item's category; empty: `category` or `genre`, if any.")
    title_column: str = Field("", description="Column of the item's title; empty: `title` or `name`, if any.")


class Interactions(Section):
    """How events become one strength per (user, item)."""

    log_scale: NonNegative = Field(
        0.0, description="Epsilon of strength = log(1 + sum / epsilon); 0 keeps the plain sum. Implicit feedback only."
    )
    half_life_days: NonNegative = Field(
        0.0,
        description="Days after which an event counts half, measured back from the newest event; 0: no decay. "
        "Implicit feedback only.",
    )


class Synthetic(Section):
    """The generator behind `make demo`."""

    users: int = Field(3000, ge=1, le=100_000_000, description="Users.")
    items: int = Field(1000, ge=1, le=100_000_000, description="Items.")
    events: int = Field(120_000, ge=1, le=10_000_000_000, description="Events.")
    groups: int = Field(12, ge=1, le=10_000, description="Planted taste groups.")
    popularity_exponent: float = Field(0.8, ge=0, le=5, description="Exponent of the power law of item popularity.")
    affinity: float = Field(0.8, ge=0, le=1, description="Share of a user's events that fall in the user's own groups.")
    days: Positive = Field(90.0, description="Length of the history in days.")
    drift: float = Field(0.15, ge=0, le=1, description="Share of users whose taste changes halfway through.")
    seed: int = Field(7, ge=0, le=2**63 - 1, description="Seed of the generator.")

    @model_validator(mode="after")
    def _agree(self) -> Synthetic:
        excess = f"synthetic.groups ({self.groups}) must not exceed synthetic.items ({self.items})"
        return refuse(self, [excess] if self.groups > self.items else [])


SVD_LACKS_OF_MODEL = ("alpha", "unobserved_weight", "user_reg", "item_reg", "bias_reg", "reg_exponent")
SVD_LACKS_OF_TRAIN = ("solver", "cg_steps", "block_size", "sweeps", "precision", "exchange_dtype", "memory_budget_mb")
