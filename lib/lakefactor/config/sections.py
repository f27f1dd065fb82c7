"""Configuration sections: frozen models, the only home of defaults.

``conf/*.toml``, the help texts and docs/configuration.md are generated from the fields below; a field's description
gives its meaning and, where it has one, its unit. Ranges are part of the type, so a bad value is refused before Spark
starts.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lakefactor.config.places import check_catalog, check_root, check_snapshot_root

Algorithm = Literal["implicit_als", "ials", "explicit_als", "nmf", "svd", "lsa", "sgd"]
Feedback = Literal["implicit", "explicit"]
IdType = Literal["auto", "string", "long"]
Solver = Literal["cholesky", "cg", "subspace"]
Optimizer = Literal["sgd", "momentum", "adagrad", "rmsprop", "adam"]
Rule = Literal["off", "exact", "proximal", "sgd", "momentum", "adagrad", "rmsprop", "adam"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
EventType = Annotated[str, Field(min_length=1)]


SectionT = TypeVar("SectionT", bound="Section")


class Section(BaseModel):
    """A frozen section: unknown keys are errors, values are not coerced across types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def refuse(section: SectionT, problems: list[str]) -> SectionT:
    """Return `section` if there are no problems, else raise ValueError with one line for each."""
    if problems:
        raise ValueError("\n".join(problems))
    return section


class Tables(Section):
    """Where the Delta tables live."""

    root: Annotated[str, AfterValidator(check_root)] = Field(
        "warehouse", description="Folder or URI that holds one Delta table per folder. Empty: use `catalog`."
    )
    catalog: Annotated[str, AfterValidator(check_catalog)] = Field(
        "", description="`catalog.schema` (or `schema`) that holds the tables by name; used when `root` is empty."
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


class Model(Section):
    """What is factorized, and the objective."""

    algorithm: Algorithm = Field(
        "implicit_als",
        description="`implicit_als` (Hu-Koren-Volinsky), `ials` (Rendle et al.), `explicit_als` (ratings with biases), "
        "`nmf` (non-negative), `svd` (truncated, PureSVD), `lsa` (svd of TF-IDF weights), or `sgd` (section `sgd`).",
    )
    rank: int = Field(64, ge=1, le=2048, description="Length k of a factor row.")
    strength: Literal["value", "binary"] = Field(
        "value",
        description="Use the strength of an interaction as it is, or 1 for every interaction. Implicit feedback only.",
    )
    alpha: Positive = Field(
        1.0, description="Weight per unit of strength: w = alpha*s (dimensionless). Implicit feedback only."
    )
    unobserved_weight: Positive = Field(
        0.1,
        description="Weight a0 of every (user, item) pair in `ials`, of every unobserved pair in `nmf` (1: they count "
        "as zeros; dimensionless).",
    )
    user_reg: NonNegative = Field(3.0, description="Regularization of user factors.")
    item_reg: NonNegative = Field(3.0, description="Regularization of item factors.")
    bias_reg: NonNegative = Field(1.0, description="Regularization of both biases; `explicit_als` and `sgd`.")
    reg_exponent: float = Field(
        0.5, ge=0, le=2, description="nu of lambda_r = reg * n_r^nu: 1 as MLlib and ALS-WR, 0 as `implicit`."
    )
    oversampling: int = Field(
        10,
        ge=0,
        le=1024,
        description="Columns beyond `rank` that `svd` and `lsa` iterate on; they are dropped at the end.",
    )
    posterior_draws: int = Field(
        0,
        ge=0,
        le=10_000,
        description="`explicit_als` by Gibbs sampling (Bayesian matrix factorization): the last so many iterations are "
        "draws that are averaged, those before let the sampler settle. Regularization is learned; the objective is the "
        "draw's squared error. 0: the plain least squares solution.",
    )
    item_norm_exponent: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="p: scores use item factors y / |y|^p, which favours rarer items. 0: inner products; towards 1: "
        "cosines. Implicit least squares models only.",
    )
    seed: int = Field(1, ge=0, le=2**63 - 1, description="Seed of the initial factors, and of posterior draws.")

    @property
    def feedback(self) -> Feedback:
        """Kind of interactions that the algorithm needs."""
        return "explicit" if self.algorithm == "explicit_als" else "implicit"


class Train(Section):
    """How the training stage runs."""

    iterations: int = Field(
        15, ge=1, le=10_000, description="Iterations: one user half-step and one item half-step each."
    )
    solver: Solver = Field(
        "cg",
        description="`cholesky` solves each row exactly; `cg` takes `cg_steps` warm-started steps; `subspace` (iALS++) "
        "descends over `block_size` factors at a time. Least squares models only.",
    )
    cg_steps: int = Field(3, ge=1, le=1000, description="Conjugate gradient steps per half-step.")
    block_size: int = Field(64, ge=1, le=2048, description="Factors that `subspace` solves together.")
    sweeps: int = Field(
        1, ge=1, le=1000, description="Passes over all factors in a half-step of `subspace` or of `nmf`."
    )
    backend: Literal["auto", "numba", "torch"] = Field(
        "auto",
        description="Kernels: `numba` on the CPU, `torch` on a GPU (or a CPU), `auto`: torch where the task has a GPU.",
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="Products of the `torch` backend: `tf32` and `bfloat16` sum in float32 and refine the result.",
    )
    exchange_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Factors on the wire between ranks; `bfloat16` halves the bytes and rounds the source rows.",
    )
    memory_budget_mb: int = Field(
        0,
        ge=0,
        le=2**24,
        description="Memory (MiB) of a rank for source factors that it fetches; where they need more, a half-step goes "
        "over blocks of rows. 0: no bound.",
    )
    ranks: int = Field(
        2,
        ge=1,
        le=65_536,
        description="Processes W that train together; the cluster must have as many free task slots.",
    )
    threads_per_rank: int = Field(
        1, ge=1, le=1024, description="CPU threads of each rank; ranks on one machine share its cores."
    )
    timeout_seconds: int = Field(
        60, ge=1, le=86_400, description="Longest wait (seconds) for a peer before the attempt is given up."
    )
    attempts: int = Field(
        3, ge=1, le=100, description="Attempts of the training stage; each goes on from the last complete snapshot."
    )
    snapshot_every: int = Field(
        5, ge=0, le=10_000, description="Iterations between snapshots of the factors; 0: none, a retry begins anew."
    )
    snapshot_root: Annotated[str, AfterValidator(check_snapshot_root)] = Field(
        "",
        description="Folder or URI for snapshots, in reach of all ranks. Empty: `_snapshots` under `tables.root`; with "
        "`tables.catalog` there are none then.",
    )
    warm_start: bool = Field(
        False,
        description="Begin from the live model's factors; users and items that it lacks begin as in a cold start.",
    )
    stop_below: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Stop when the objective fell by less than this share in an iteration; 0: never.",
    )
    stop_metric: str = Field(
        "",
        pattern=r"^([a-z_]+_at_[0-9]{1,4})?$",
        description="Rank metric on held-out interactions that early stopping watches, as `ndcg_at_10`; empty: the "
        "objective.",
    )
    stop_patience: int = Field(
        2,
        ge=1,
        le=1000,
        description="Iterations without a better held-out metric before the end; the best one is kept.",
    )
    stop_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Share of users of whom `stop_metric` holds out one interaction each; it is not trained on.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Train:
        known = ("precision", "recall", "ndcg", "map", "mrr", "hit_rate")
        name, _, cutoff = self.stop_metric.partition("_at_")
        if self.stop_metric and (name not in known or not 1 <= int(cutoff) <= 1000):
            raise ValueError(
                f"train.stop_metric {self.stop_metric!r} is not a rank metric: "
                f"one of {', '.join(known)}, then _at_ and a cut-off from 1 to 1000"
            )
        return self


class Sgd(Section):
    """Stochastic gradients, for what least squares cannot express (`model.algorithm = "sgd"`)."""

    loss: Literal["squared", "logistic", "bpr", "softmax"] = Field(
        "bpr",
        description="`squared` (ratings), `logistic` (observed against sampled pairs), `bpr` (observed before sampled, "
        "Rendle et al. 2009), or `softmax` (observed among sampled).",
    )
    optimizer: Optimizer = Field("adagrad", description="Update rule.")
    learning_rate: Positive = Field(0.05, description="Step size.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Decay of the velocity (`momentum`), or of its mean (`adam`).")
    decay: float = Field(0.99, ge=0, lt=1, description="Decay of the squared gradients (`rmsprop`, `adam`).")
    batch_entries: int = Field(
        4096, ge=1, le=2**24, description="Interactions in one step, of all ranks together, about."
    )
    negatives: int = Field(1, ge=1, le=1000, description="Sampled items for each interaction (not `squared`).")
    clip_norm: NonNegative = Field(1.0, description="Largest length of a row's gradient; 0: not clipped.")


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
    require_evaluation: bool = Field(True, description="Refuse a model without a recorded evaluation.")


class Recommend(Section):
    """Top-N lists and similar items."""

    n: int = Field(20, ge=1, le=10_000, description="Items per user.")
    exclude_seen: bool = Field(True, description="Leave out items that the user has interacted with.")
    users: tuple[str, ...] = Field((), description="Only these users; empty: all users.")
    allow_items: tuple[str, ...] = Field((), description="Recommend only these items; empty: all.")
    deny_items: tuple[str, ...] = Field((), description="Never recommend these items.")
    similar_n: int = Field(20, ge=0, le=10_000, description="Similar items kept per item; 0 leaves the table alone.")
    user_block_rows: int = Field(1024, ge=1, le=1_000_000, description="Users scored in one matrix product (rows).")
    item_block_rows: int = Field(8192, ge=1, le=10_000_000, description="Items scored in one matrix product (rows).")


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
    path: str = Field("", description="Landing folder or URI of `files`.")
    kafka_servers: str = Field("", description="Bootstrap servers of `kafka`, as `host:port,host:port`.")
    kafka_topic: str = Field("", description="Topic of `kafka`.")
    kafka_options: dict[str, str] = Field(
        default={}, description="More options of Spark's Kafka source, as `kafka.security.protocol`."
    )
    checkpoint: str = Field(
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
    metrics_file: str = Field(
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


class Config(Section):
    """All sections. ``Config()`` is the documented default."""

    tables: Tables = Tables()
    spark: Spark = Spark()
    ingest: Ingest = Ingest()
    interactions: Interactions = Interactions()
    model: Model = Model()
    train: Train = Train()
    sgd: Sgd = Sgd()
    evaluate: Evaluate = Evaluate()
    publish: Publish = Publish()
    recommend: Recommend = Recommend()
    stream: Stream = Stream()
    synthetic: Synthetic = Synthetic()

    @property
    def feedback(self) -> Feedback:
        """Kind of interactions that the model needs."""
        rated = self.model.algorithm == "sgd" and self.sgd.loss == "squared"
        return "explicit" if rated else self.model.feedback

    @model_validator(mode="after")
    def _agree(self) -> Config:
        problems = []
        if self.feedback == "explicit":
            implicit_only = {
                "interactions.log_scale": self.interactions.log_scale != 0,
                "interactions.half_life_days": self.interactions.half_life_days != 0,
                "model.strength": self.model.strength != "value",
            }
            problems += [
                f"{key} is for implicit feedback only, but model.algorithm is {self.model.algorithm}: leave its default"
                for key, is_set in implicit_only.items()
                if is_set
            ]
        if self.stream.huber and self.feedback == "implicit":
            problems.append("stream.huber is for explicit feedback only: set it to 0")
        problems += self._model_problems() + self._unused()
        cutoff = re.search(r"_at_(\d+)$", self.publish.metric)
        if cutoff and int(cutoff[1]) not in self.evaluate.ks:
            problems.append(f"publish.metric {self.publish.metric} needs the cut-off {cutoff[1]} in evaluate.ks")
        return refuse(self, problems)

    def _model_problems(self) -> list[str]:
        model, train = self.model, self.train
        problems = []
        if model.item_norm_exponent and model.algorithm not in ("implicit_als", "ials"):
            problems.append(
                "model.item_norm_exponent is for implicit_als and ials only, but model.algorithm is "
                f"{model.algorithm}: leave its default"
            )
        if model.posterior_draws and model.algorithm != "explicit_als":
            problems.append(
                f"model.posterior_draws is for explicit_als only, but model.algorithm is {model.algorithm}: set it to 0"
            )
        if model.posterior_draws > train.iterations:
            problems.append(
                f"model.posterior_draws {model.posterior_draws} exceeds train.iterations {train.iterations}; "
                "give some more iterations than draws, as 20, for the sampler to settle"
            )
        if model.posterior_draws and train.stop_below:
            problems.append("train.stop_below must be 0 with model.posterior_draws: a draw's objective does not settle")
        return problems

    def _unused(self) -> list[str]:
        """Return what is set although a truncated SVD, or any other model, does not use it."""
        algorithm = self.model.algorithm
        is_svd = algorithm in ("svd", "lsa")
        model, train = (SVD_LACKS_OF_MODEL, SVD_LACKS_OF_TRAIN) if is_svd else (("oversampling",), ())
        keys = [f"model.{key}" for key in model if getattr(self.model, key) != Model.model_fields[key].default]
        keys += [f"train.{key}" for key in train if getattr(self.train, key) != Train.model_fields[key].default]
        return [f"model.algorithm {algorithm} does not use {key}: leave its default" for key in keys]
