"""The whole configuration: frozen sections, the only home of defaults, and what they say about each other.

``conf/*.toml``, the help texts and docs/configuration.md are generated from the fields below; a field's description
gives its meaning and, where it has one, its unit. Ranges are part of the type, so a bad value is refused before Spark
starts.
"""

from __future__ import annotations

import re

from pydantic import model_validator

from lakefactor.config.data_sections import Ingest, Interactions, Items, Spark, Synthetic, Tables
from lakefactor.config.experiment_section import Experiment
from lakefactor.config.model_sections import Feedback, Model, Sgd, Train
from lakefactor.config.operation_sections import Evaluate, Explain, Forget, Maintain, Publish, Quality, Recommend
from lakefactor.config.section import Section, refuse
from lakefactor.config.serve_section import Serve
from lakefactor.config.stream_section import Stream
from lakefactor.config.tune_section import SEARCHED, Tune

SVD_LACKS_OF_MODEL = ("alpha", "unobserved_weight", "user_reg", "item_reg", "bias_reg", "reg_exponent")
SVD_LACKS_OF_TRAIN = ("solver", "cg_steps", "block_size", "sweeps", "precision", "exchange_dtype", "memory_budget_mb")
UNTURNED = ("nmf", "svd", "lsa")
"""Algorithms whose single factors mean something: they are not negative, or in order of singular values."""


class Config(Section):
    """All sections. ``Config()`` is the documented default."""

    tables: Tables = Tables()
    spark: Spark = Spark()
    ingest: Ingest = Ingest()
    interactions: Interactions = Interactions()
    items: Items = Items()
    model: Model = Model()
    train: Train = Train()
    sgd: Sgd = Sgd()
    evaluate: Evaluate = Evaluate()
    tune: Tune = Tune()
    publish: Publish = Publish()
    quality: Quality = Quality()
    recommend: Recommend = Recommend()
    explain: Explain = Explain()
    stream: Stream = Stream()
    serve: Serve = Serve()
    experiment: Experiment = Experiment()
    maintain: Maintain = Maintain()
    forget: Forget = Forget()
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
        for key, metric in (("publish.metric", self.publish.metric), ("tune.metric", self.tune.metric)):
            cutoff = re.search(r"_at_(\d+)$", metric)
            if cutoff and int(cutoff[1]) not in self.evaluate.ks:
                problems.append(f"{key} {metric} needs the cut-off {cutoff[1]} in evaluate.ks")
        problems += self.tune.problems({name: type(getattr(self, name)) for name in SEARCHED})
        return refuse(self, problems)

    def _model_problems(self) -> list[str]:
        model, train = self.model, self.train
        problems = []
        if model.item_norm_exponent and model.algorithm not in ("implicit_als", "ials"):
            problems.append(
                "model.item_norm_exponent is for implicit_als and ials only, but model.algorithm is "
                f"{model.algorithm}: leave its default"
            )
        if train.align and model.algorithm in UNTURNED:
            problems.append(
                f"train.align turns factors, and those of model.algorithm {model.algorithm} have a meaning each: "
                "set it to false"
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
