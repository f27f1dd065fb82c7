"""From a training to readers: what every DAG that makes a model version ends with."""

from __future__ import annotations

from _assets import LIVE_MODEL, MODELS, RECOMMENDATIONS
from _submit import TRAIN_POOL, Job, result_of, submit, version_of
from airflow.sdk import chain


def release(*arguments: str) -> Job:
    """Return the first of the tasks that train a version, measure it, and let it go live if it passes the gate.

    Parameters
    ----------
    *arguments : str
        Of `train`, templated.
    """
    train = submit("train", *arguments, options={"fresh": "--fresh"}, pool=TRAIN_POOL, outlets=[MODELS])
    chain(
        train,
        submit("evaluate", *version_of("train"), pool=TRAIN_POOL),
        submit("compare", "live", f"@{result_of('train')}", pool=TRAIN_POOL),
        submit("gate", *version_of("train")),
        submit("catchup", *version_of("train")),
        submit("publish", *version_of("train"), outlets=[LIVE_MODEL]),
        submit("recommend", *version_of("publish"), outlets=[RECOMMENDATIONS]),
    )
    return train
