"""Stochastic gradients through the pipelines: folds train by the recorded section, and ratings are measured."""

from __future__ import annotations

import pytest

from lakefactor.config import Evaluate, Model, Sgd, Train
from lakefactor.errors import ConfigError
from lakefactor.pipelines import evaluate, train
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.tables import write_interactions


def test_squared_loss_is_trained_and_measured_as_ratings(spark, config):
    regs = {"user_reg": 0.02, "item_reg": 0.02, "bias_reg": 0.02, "reg_exponent": 1.0}
    trained = {
        "model": Model(algorithm="sgd", rank=4, **regs),
        "sgd": Sgd(loss="squared", batch_entries=200),
        "train": Train(ranks=2, iterations=2),
    }
    write_interactions(spark, config, random_interactions(60, 40, 900, seed=5))
    train.run(spark, config.model_copy(update=trained))
    # The section comes from the model version, as `model` and `train` do: here it says bpr.
    asked = config.model_copy(update={"evaluate": Evaluate(split="random_holdout")})
    assert {"rmse", "mae"} <= evaluate.run(spark, asked).metrics["model"].keys()
    with pytest.raises(ConfigError, match=r"evaluate\.split is user_holdout"):
        evaluate.run(spark, config.model_copy(update={"evaluate": Evaluate(split="user_holdout")}))
