"""The Spark session of every job: pinned versions, Delta, UTC, and no noise.

spark-submit's settings win over lakefactor's, except the two that decide what the tables contain: the session time zone
(UTC) and the types of path partition columns (strings). Without spark-submit, lakefactor starts the JVM itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pyspark
from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.find_spark_home import _find_spark_home
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.errors import SetupError

PYSPARK_VERSION = "4.1.1"
DELTA_VERSION = "4.1.0"
JAVA_VERSIONS = (17, 21)
DELTA_PACKAGE = f"io.delta:delta-spark_4.1_2.13:{DELTA_VERSION}"
KAFKA_PACKAGE = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{PYSPARK_VERSION}"
KAFKA_SOURCE = "org.apache.spark.sql.kafka010.KafkaSourceProvider"
DELTA_EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"
DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"

SECRET_SETTINGS = "(?i)secret|password|passphrase|token|access[.]?key|account[.]key|jaas"
"""Settings whose values Spark hides in event logs and on its page: Spark's own pattern, Azure's account keys, Kafka."""


def build(config: Config, app_name: str) -> SparkSession:
    """Start or adopt the Spark session that a job runs in.

    Parameters
    ----------
    config : Config
        Sections ``spark`` and ``tables``; ``stream`` says whether Spark needs its Kafka connector.
    app_name : str
        Name in the Spark UI; spark-submit's ``--name`` wins.

    Returns
    -------
    SparkSession
        A classic session with Delta, in UTC.

    Raises
    ------
    SetupError
        pyspark, delta-spark, Java or Delta's jar is missing or of another version than the one that works; or Kafka's
        connector is missing.
    """
    managed = "DATABRICKS_RUNTIME_VERSION" in os.environ  # a runtime that ships its own matched Spark, Delta and Java
    if not managed:
        check_versions(pyspark.__version__, _installed("delta-spark"), _java_version())
    builder = SparkSession.builder.appName(app_name)
    submitted = _submitted_settings()
    settings = _settings(config, submitted)
    if submitted is None:
        settings |= _launch_settings(config)
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    if submitted is not None and "spark.log.level" not in submitted:
        spark.sparkContext.setLogLevel("ERROR")
    if not managed:
        _check_jvm(spark)
    if config.stream.source == "kafka" and not _has_class(spark, KAFKA_SOURCE):
        raise SetupError(
            f"Spark runs without its Kafka connector, which stream.source kafka needs; add to spark-submit: --packages "
            f"{KAFKA_PACKAGE} (or put its jars into Spark's folder jars/)"
        )
    return spark


def check_versions(pyspark_version: str, delta_version: str | None, java_version: str | None) -> None:
    """Refuse a set of versions that is known to fail at run time.

    Parameters
    ----------
    pyspark_version : str
        As ``4.1.1``.
    delta_version : str or None
        Version of the Python package ``delta-spark``; None: not installed.
    java_version : str or None
        As ``17.0.15``; None: no Java was found.

    Raises
    ------
    SetupError
        What was found, what is required, and what to do.

    Examples
    --------
    >>> check_versions("4.1.1", "4.1.0", "21.0.2")
    >>> check_versions("4.1.2", "4.1.0", "21.0.2")
    Traceback (most recent call last):
    lakefactor.errors.SetupError: found pyspark 4.1.2, but Delta 4.1.0 works with pyspark 4.1.1 only ...
    """
    if pyspark_version != PYSPARK_VERSION:
        raise SetupError(
            f"found pyspark {pyspark_version}, but Delta {DELTA_VERSION} works with pyspark {PYSPARK_VERSION} only "
            f"(later ones fail in ALTER, OPTIMIZE and the DeltaTable API); run: pip install pyspark=={PYSPARK_VERSION}"
        )
    if delta_version != DELTA_VERSION:
        found = f"delta-spark {delta_version}" if delta_version else "no delta-spark"
        raise SetupError(
            f"found {found}, but delta-spark {DELTA_VERSION} is required; run: pip install delta-spark=={DELTA_VERSION}"
        )
    major = _java_major(java_version)
    if major not in JAVA_VERSIONS:
        found = f"Java {java_version}" if java_version else "no Java (neither JAVA_HOME nor PATH leads to one)"
        raise SetupError(
            f"found {found}, but Spark {PYSPARK_VERSION} needs Java 17 or 21; install one "
            "(Debian and Ubuntu: apt-get install openjdk-17-jre-headless) and let JAVA_HOME name it"
        )


def _settings(config: Config, submitted: dict[str, str] | None) -> dict[str, str]:
    """Return the settings that spark-submit has not made, and the few that must hold."""
    given = submitted or {}
    wanted = {
        "spark.sql.shuffle.partitions": str(config.spark.shuffle_partitions),
        "spark.sql.catalog.spark_catalog": DELTA_CATALOG,
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # INT96 is slow to read and has no statistics
        "spark.sql.execution.arrow.maxRecordsPerBatch": "100000",  # fewer, larger batches into Python
        "spark.ui.showConsoleProgress": "false",
        "spark.redaction.regex": SECRET_SETTINGS,
        # Compiled code that is kept. A micro-batch has more pieces than the default 100 and compiled them all anew.
        "spark.sql.codegen.cache.maxEntries": "2000",
    }
    if config.tables.metastore:
        wanted["spark.sql.catalogImplementation"] = "hive"
        wanted["spark.hadoop.hive.metastore.uris"] = config.tables.metastore
    master = given.get("spark.master", config.spark.master)
    if master.startswith("local"):
        wanted["spark.databricks.delta.snapshotPartitions"] = "2"  # of a table's log; the default 50 costs seconds
    settings = {key: value for key, value in wanted.items() if key not in given}
    extensions = [name for name in given.get("spark.sql.extensions", "").split(",") if name]
    settings["spark.sql.extensions"] = ",".join(dict.fromkeys([*extensions, DELTA_EXTENSION]))
    settings["spark.sql.session.timeZone"] = "UTC"
    settings["spark.sql.sources.partitionColumnTypeInference.enabled"] = "false"  # `user=007` is not 7
    return settings


def _launch_settings(config: Config) -> dict[str, str]:
    """Return the settings that only count while the JVM is being started."""
    settings = {"spark.master": config.spark.master, "spark.driver.memory": config.spark.driver_memory}
    if config.tables.root and ":" not in config.tables.root:  # or else Spark makes a folder where it stands
        settings["spark.sql.warehouse.dir"] = str(Path(config.tables.root).absolute())
    quiet = Path(__file__).with_name("log4j2.properties")
    if quiet.is_file():
        settings["spark.driver.extraJavaOptions"] = f"-Dlog4j2.configurationFile={quiet.as_uri()}"
    jars = Path(_find_spark_home(), "jars")
    wanted = {"*delta-spark_*.jar": DELTA_PACKAGE}
    if config.stream.source == "kafka":
        wanted["*spark-sql-kafka-0-10_*.jar"] = KAFKA_PACKAGE
    if missing := [package for pattern, package in wanted.items() if not any(jars.glob(pattern))]:
        settings["spark.jars.packages"] = ",".join(missing)
    return settings


def _submitted_settings() -> dict[str, str] | None:
    """Return the settings of the running JVM, or None where there is none yet."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ and SparkContext._gateway is None:
        return None
    SparkContext._ensure_initialized()  # connects; without it SparkConf() is empty
    return dict(SparkConf().getAll())


def _check_jvm(spark: SparkSession) -> None:
    """Refuse a JVM (started by somebody else) without Delta, or with another Spark, Delta or Java."""
    jvm = spark._jvm
    assert jvm is not None
    if not _has_class(spark, DELTA_EXTENSION):
        raise SetupError(
            f"Spark runs without Delta's jar; add to spark-submit: --packages {DELTA_PACKAGE} (or put the jar into "
            "Spark's folder jars/)"
        )
    try:
        delta_version = getattr(jvm.io.delta, "package$").__getattr__("MODULE$").VERSION()
    except Py4JError:  # a jar given by --packages is out of sight of Py4J's class loader on some masters
        delta_version = DELTA_VERSION
    check_versions(spark.version, delta_version, jvm.java.lang.System.getProperty("java.version"))


def _has_class(spark: SparkSession, name: str) -> bool:
    jvm = spark._jvm
    assert jvm is not None
    return bool(jvm.org.apache.spark.util.Utils.classIsLoadable(name))


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _java_version() -> str | None:
    """Return the version of the Java that Spark will start (JAVA_HOME first, then PATH), or None."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None:
        return None
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r'version "([^"]+)"', answer)
    return found.group(1) if found else None


def _java_major(version: str | None) -> int | None:
    """Return the major version.

    >>> _java_major("17.0.15"), _java_major("1.8.0_402"), _java_major(None)
    (17, 8, None)
    """
    found = re.match(r"(?:1\.)?(\d+)", version or "")
    return int(found.group(1)) if found else None
