"""Submitted by test_rapids_plans.py under the RAPIDS plugin in its mode explainOnly: runs every pipeline on the CPU.

Usage: rapids_driver.py FOLDER. Before each step its name goes to the log, between the plugin's explanations; the
plugin's description of its keys goes to stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.java_gateway import JavaObject
from pyspark.sql import DataFrame, SparkSession

from lakefactor.config import Config
from lakefactor.pipelines import evaluate, ingest, interactions, publish, recommend, train
from lakefactor.spark import session
from lakefactor.spark.splits import folds
from lakefactor.spark.tables import Tables

IMPLICIT = {
    "model": {"rank": 2},
    "train": {"iterations": 1, "ranks": 2},
    "interactions": {"half_life_days": 30.0, "log_scale": 1.0},
    "recommend": {"similar_n": 2},
    "publish": {"beat_popularity": False},
}
EXPLICIT = {"model": {"algorithm": "explicit_als"}}


def write_events(file: Path) -> None:
    """Events with every fate: accepted, delivered twice, deleted, refused."""
    lines = ["user,item,value,time,type"]
    for user in range(20):
        for step in range(6):
            kind = "delete" if (user + step) % 11 == 0 else "view"
            lines.append(f"u{user},i{(user * 7 + step * step) % 9},1,2024-01-{1 + step:02d}T00:00:{user:02d},{kind}")
    file.write_text("\n".join([*lines, lines[-1], ",i1,1,2024-01-01,view", "u1,i1,much,2024-01-01,view"]) + "\n")


@contextmanager
def step(spark: SparkSession, name: str) -> Iterator[None]:
    spark._jvm.org.apache.logging.log4j.LogManager.getLogger("Step").error(name)
    yield


def tell_keys(spark: SparkSession) -> None:
    """Print every key that the plugin's classes for this Spark know, each followed by a colon."""
    loader = spark._jvm.com.nvidia.spark.rapids.ShimLoader.getShimClassLoader()

    def scala_object(name: str) -> tuple[JavaObject, JavaObject]:
        of_class = loader.loadClass(f"com.nvidia.spark.rapids.{name}$")
        return of_class, of_class.getField("MODULE$").get(None)

    scala_object("RapidsConf")[1].help(False)
    of_class, entries = scala_object("python.PythonConfEntries")  # documented apart
    for method in of_class.getMethods():
        if method.getParameterCount() == 0 and "ConfEntry" in method.getReturnType().getSimpleName():
            print(f"{getattr(entries, method.getName())().key()}:", flush=True)


def plan(rows: DataFrame) -> None:
    """Let Spark plan and run a query whose rows nobody wants."""
    rows.write.format("noop").mode("overwrite").save()


def main(folder: Path) -> None:
    """Run every step on events below ``folder``."""
    place = {"tables": {"root": str(folder / "lake")}}
    config = Config.model_validate(place | IMPLICIT)
    write_events(folder / "events.csv")
    spark = session.build(config, "explained")
    tell_keys(spark)
    tables = Tables(spark, config.tables)
    with step(spark, "ingest"):
        ingest.run(spark, config, [str(folder / "events.csv")])
    with step(spark, "interactions"):
        interactions.run(spark, Config.model_validate(place | EXPLICIT))
        interactions.run(spark, config)
    with step(spark, "train"):
        train.run(spark, config)
    with step(spark, "splits"):
        for split in ("k_fold", "random_holdout", "leave_last_out", "user_holdout"):
            keys = config.evaluate.model_copy(update={"split": split})
            fold = next(iter(folds(tables.read("interactions"), keys)))
            plan(fold.train)
            plan(fold.test)
    with step(spark, "evaluate"):
        evaluate.run(spark, config)
    with step(spark, "publish"):
        publish.run(spark, config)
    with step(spark, "recommend"):
        recommend.run(spark, config)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
