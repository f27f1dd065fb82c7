"""svd and lsa from interactions to recommendations, on users whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from lakefactor.config import Config, Evaluate, Model, Publish, Recommend, Train
from lakefactor.pipelines import evaluate, recommend, train
from lakefactor.testing.tables import taste_groups, write_interactions


@pytest.mark.parametrize("split", ["random_holdout", "user_holdout"])
@pytest.mark.parametrize("algorithm", ["svd", "lsa"])
def test_finds_the_rest_of_the_users_group(spark, config: Config, algorithm, split):
    config = config.model_copy(
        update={
            # By value, the second singular value of the group with strength 3 is above the first of that with 1.
            "model": Model(algorithm=algorithm, rank=3, strength="binary"),
            "train": Train(ranks=2, iterations=4),
            "evaluate": Evaluate(split=split, holdout_fraction=0.25, ks=(1, 3)),
            "publish": Publish(metric="ndcg_at_3"),
            "recommend": Recommend(n=2, similar_n=0),
        }
    )
    tables = write_interactions(spark, config, taste_groups())
    version = train.run(spark, config).model_version
    assert [row.algorithm for row in tables.read("models").collect()] == [algorithm]
    lengths = np.linalg.norm([row.factors for row in tables.read("user_factors").collect()], axis=0)
    assert (np.diff(lengths) <= 1e-6 * lengths[0]).all()

    metrics = evaluate.run(spark, config, version).metrics
    assert metrics["model"]["ndcg_at_3"] > 1.5 * metrics["popularity"]["ndcg_at_3"]

    recommend.run(spark, config, version)
    rows = tables.read("recommendations").collect()
    assert len(rows) == 60 * 2
    assert all(int(row.user_id[1:]) % 3 == int(row.item_id[1:]) % 3 for row in rows)
