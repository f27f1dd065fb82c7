"""From a training to readers: what every DAG that makes a model version ends with."""

from __future__ import annotations

from _assets import LIVE_MODEL, MODELS, RECOMMENDATIONS
from _submit import TRAIN_POOL, Job, submit, version_of


def release(*arguments: str) -> Job:
    """Return the first of four tasks: train, measure, publish, recommend.

    Parameters
    ----------
    *arguments : str
        Of `train`, templated.
    """
    train = submit("train", *arguments, pool=TRAIN_POOL, outlets=[MODELS])
    evaluate = submit("evaluate", *version_of("train"), pool=TRAIN_POOL)
    publish = submit("publish", *version_of("train"), outlets=[LIVE_MODEL])
    recommend = submit("recommend", *version_of("publish"), outlets=[RECOMMENDATIONS])
    train >> evaluate >> publish >> recommend
    return train
