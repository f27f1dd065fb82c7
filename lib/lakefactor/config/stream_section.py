"""The section on a stream: where events come from, how rows are updated, what guards and watches them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lakefactor.config.places import without_password
from lakefactor.config.section import SECRET, NonNegative, Positive, Section, refuse

Place = Annotated[str, AfterValidator(without_password)]
Rule = Literal["off", "exact", "proximal", "sgd", "momentum", "adagrad", "rmsprop", "adam"]


class Stream(Section):
    """Continuous updates of the live model by Structured Streaming."""

    name: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="Name of the stream; its checkpoint and its micro-batches in `stream_ledger` go by it.",
    )
    source: Literal["changes", "files", "kafka"] = Field(
        "changes",
        description="`changes`: what others append to `events`; `files`: new files in `path` (read as section `ingest` "
        "says); `kafka`: JSON messages of `kafka_topic`.",
    )
    path: Place = Field("", description="Landing folder or URI of `files`.")
    kafka_servers: str = Field("", description="Bootstrap servers of `kafka`, as `host:port,host:port`.")
    kafka_topic: str = Field("", description="Topic of `kafka`.")
    kafka_options: dict[str, str] = Field(
        default={},
        description="More options of Spark's Kafka source, as `kafka.security.protocol`. Their values are shown and "
        "recorded nowhere.",
        json_schema_extra=SECRET,
    )
    checkpoint: Place = Field(
        "",
        description="Folder or URI of the checkpoint. Empty: `_checkpoints` under `tables.root`, then the name.",
    )
    trigger_seconds: NonNegative = Field(
        10.0, description="Seconds between micro-batches of a stream that runs on; 0: one follows the other."
    )
    max_rows: int = Field(
        100_000, ge=1, le=10_000_000, description="Rows of a micro-batch, about: files and commits are not split."
    )
    user_rule: Rule = Field(
        "exact",
        description="How a touched user is updated: `exact` solves its whole history, `proximal` its new interactions "
        "near its old factors, an optimizer takes a step for these; `off` leaves users alone.",
    )
    item_rule: Rule = Field("proximal", description="How a touched item is updated, as `user_rule`.")
    exact_max_entries: int = Field(
        20_000, ge=1, description="A row with more interactions is updated by `proximal` where the rule is `exact`."
    )
    rho: NonNegative = Field(
        1.0,
        description="How firmly `proximal` holds a row to its old factors, per interaction that stays as it was: at 1 "
        "these count as much as those that changed (dimensionless).",
    )
    learning_rate: Positive = Field(
        0.05, description="Step size of the optimizers: 0.05 suits users; items, which take many steps, want a tenth."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Decay of the velocity (`momentum`), or of its mean (`adam`).")
    decay: float = Field(0.99, ge=0, lt=1, description="Decay of the squared gradients (`rmsprop`, `adam`).")
    clip_norm: NonNegative = Field(1.0, description="Largest length of a row's gradient; 0: not clipped.")
    gramian_every: int = Field(
        100,
        ge=1,
        description="Micro-batches between exact computations of the Gramians, which change by the rows else.",
    )
    resolve_users: int = Field(
        100,
        ge=0,
        description="Users that are solved anew from their whole histories whenever the Gramians are computed anew, to "
        "tell how far the stream's factors are from that; 0: none.",
    )
    fold_every: int = Field(
        100, ge=0, description="Micro-batches between merges of `factor_updates` into the factor tables; 0: never."
    )
    refresh: bool = Field(
        True,
        description="Renew the lists of the changed users and items in every micro-batch, where `recommend` has made "
        "some.",
    )
    events_per_user: int = Field(
        0, ge=0, description="Most events of a user that a micro-batch learns from, the newest; 0: no cap."
    )
    huber: NonNegative = Field(
        0.0, description="Error beyond which an entry of a rating weighs less (Huber), in units of strength; 0: off."
    )
    max_change: NonNegative = Field(
        0.0, description="Largest |x - x_old| / |x_old| of a known row in a micro-batch; 0: no bound."
    )
    burst_events: int = Field(
        0,
        ge=0,
        description="A new user with more events in a micro-batch is in quarantine: kept in `events`, not learned from "
        "until the next training; 0: off.",
    )
    watch_k: int = Field(10, ge=1, le=1000, description="Cut-off of the prequential rank metrics.")
    watch_users: int = Field(
        1000, ge=0, description="Users per micro-batch whose events are scored before they are learned; 0: no metrics."
    )
    adwin_delta: float = Field(0.002, gt=0, lt=1, description="ADWIN's chance of a false alarm.")
    page_hinkley_threshold: Positive = Field(
        50.0,
        description="Page-Hinkley's threshold of the cumulative deviation, in standard deviations of the metric from "
        "micro-batch to micro-batch.",
    )
    metrics_file: Place = Field(
        "",
        description="File that gets the stream's metrics in Prometheus' text format after every micro-batch, for the "
        "textfile collector of node_exporter, which reads `*.prom`. Empty: none.",
    )

    @property
    def optimizers(self) -> frozenset[str]:
        """The optimizers among the rules in use."""
        return frozenset({self.user_rule, self.item_rule} - {"off", "exact", "proximal"})

    @model_validator(mode="after")
    def _agree(self) -> Stream:
        needed = {"files": ("path",), "kafka": ("kafka_servers", "kafka_topic")}.get(self.source, ())
        missing = [f"stream.source {self.source} needs stream.{key}" for key in needed if not getattr(self, key)]
        return refuse(self, missing)
