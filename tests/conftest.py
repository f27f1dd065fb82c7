"""What every test may ask for: one Spark session, an empty warehouse, and the real data sets where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lakefactor.config import Config, Spark, Tables, Train

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CHECKOUT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless it is asked for."""
    if "LAKEFACTOR_LONG" not in os.environ:
        skip = pytest.mark.skip(reason="takes minutes; `make test-long` runs it")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Delta session on local[2]; started by the first test that asks for it."""
    from lakefactor.spark import session

    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    # Tiny jobs spend their time in the compiler: without the second one, and one collector thread, half the CPU time.
    options = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC"
    os.environ.setdefault("SPARK_SUBMIT_OPTS", options)
    warehouse = tmp_path_factory.mktemp("spark-warehouse")
    config = Config(
        tables=Tables(root=str(warehouse)),
        spark=Spark(master="local[2]", driver_memory="2g", shuffle_partitions=2),
    )
    spark = session.build(config, "lakefactor tests")
    yield spark
    spark.stop()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Configuration whose tables live in a folder of this test alone."""
    return Config(
        tables=Tables(root=str(tmp_path / "warehouse")),
        spark=Spark(master="local[2]", shuffle_partitions=2),
        train=Train(ranks=2, timeout_seconds=60),
    )


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets; without it the test is skipped."""
    folder = Path(os.environ.get("LAKEFACTOR_DATA") or CHECKOUT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set LAKEFACTOR_DATA to the folder that holds ml-100k/")
    return folder
