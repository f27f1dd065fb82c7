"""Sections on a model: what is factorized, and how it is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lakefactor.config.places import check_snapshot_root
from lakefactor.config.section import NonNegative, Positive, Section

Algorithm = Literal["implicit_als", "ials", "explicit_als", "nmf", "svd", "lsa", "sgd"]
Feedback = Literal["implicit", "explicit"]
Solver = Literal["cholesky", "cg", "subspace"]
Optimizer = Literal["sgd", "momentum", "adagrad", "rmsprop", "adam"]
RANK_METRICS = ("precision", "recall", "ndcg", "map", "mrr", "hit_rate")
"""What can be measured after every iteration, each with a cut-off, as ``ndcg_at_10``."""


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
    close: bool = Field(
        True,
        description="Solve users once more, exactly, after the last iteration: a user's factors are then those that a "
        "fold-in of the user's interactions gives. Least squares models without `posterior_draws`.",
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
    align: bool = Field(
        False,
        description="Turn the factors toward the live model's, so that those who keep some may go on comparing them "
        "(orthogonal Procrustes over the items; no score changes). Not `nmf`, `svd`, `lsa`.",
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
        name, _, cutoff = self.stop_metric.partition("_at_")
        if self.stop_metric and (name not in RANK_METRICS or not 1 <= int(cutoff) <= 1000):
            raise ValueError(
                f"train.stop_metric {self.stop_metric!r} is not a rank metric: "
                f"one of {', '.join(RANK_METRICS)}, then _at_ and a cut-off from 1 to 1000"
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
