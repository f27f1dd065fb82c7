"""Write and read a small Delta table: run by spark-submit, it proves that jars, Java and Python fit together."""

from __future__ import annotations

import tempfile

from pyspark.sql import SparkSession

with tempfile.TemporaryDirectory() as folder:
    spark = (
        SparkSession.builder.appName("lakefactor set-up check")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.databricks.delta.snapshotPartitions", 1)  # few tasks: this is run by somebody who waits
        .config("spark.sql.shuffle.partitions", 1)
        .config("spark.ui.enabled", False)
        .getOrCreate()
    )
    spark.range(2).write.format("delta").save(f"{folder}/numbers")
    details = spark.sql(f"DESCRIBE DETAIL delta.`{folder}/numbers`").first()  # only Delta's extension parses this
    table = spark.read.format("delta").load(f"{folder}/numbers")
    rows = table.mapInArrow(lambda batches: batches, "id BIGINT").collect()  # by a Python worker, which needs pyarrow
    spark.stop()
    if sorted(row.id for row in rows) != [0, 1] or details is None or details.format != "delta":
        raise SystemExit(f"a Delta table that should hold 0 and 1 holds {rows}; {details}")
