"""Run by test_catalog.py in a process of its own, since a session has one catalog: a model from events to lists.

Usage: catalog_driver.py CONFIG EVENTS. The last line is the table of recommendations, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lakefactor.config import load
from lakefactor.pipelines import ingest, publish, recommend, train
from lakefactor.spark import session
from lakefactor.spark.tables import Tables


def main() -> None:
    config = load(Path(sys.argv[1]))
    spark = session.build(config, "catalog")
    ingest.run(spark, config, [sys.argv[2]])
    publish.run(spark, config, train.run(spark, config).model_version)
    recommend.run(spark, config)
    rows = Tables(spark, config.tables).read("recommendations").orderBy("user_id", "position").collect()
    print(json.dumps([(row.user_id, row.item_id, row.score) for row in rows]))


if __name__ == "__main__":
    main()
