from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lakefactor.config import Config, Spark, Stream
from lakefactor.errors import SetupError
from lakefactor.spark import session


@pytest.mark.parametrize("java", ["17.0.15", "21.0.2", "17"])
def test_the_pinned_versions_pass(java):
    session.check_versions("4.1.1", "4.1.0", java)


@pytest.mark.parametrize(
    ("versions", "found", "remedy"),
    [
        (("4.1.2", "4.1.0", "17.0.15"), "found pyspark 4.1.2", "pip install pyspark==4.1.1"),
        (("4.0.1", "4.1.0", "17.0.15"), "found pyspark 4.0.1", "pip install pyspark==4.1.1"),
        (("4.1.1", "4.2.0", "17.0.15"), "found delta-spark 4.2.0", "pip install delta-spark==4.1.0"),
        (("4.1.1", None, "17.0.15"), "found no delta-spark", "pip install delta-spark==4.1.0"),
        (("4.1.1", "4.1.0", "1.8.0_402"), "found Java 1.8.0_402", "install one"),
        (("4.1.1", "4.1.0", "25"), "found Java 25", "install one"),
        (("4.1.1", "4.1.0", None), "found no Java", "install one"),
    ],
)
def test_another_version_is_refused_with_what_was_found_and_what_to_do(versions, found, remedy):
    with pytest.raises(SetupError) as refusal:
        session.check_versions(*versions)
    assert found in str(refusal.value)
    assert remedy in str(refusal.value)


def test_a_java_home_without_java_is_no_java(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert session._java_version() is None


def test_another_pyspark_is_refused_before_spark_starts(monkeypatch):
    monkeypatch.setattr("pyspark.__version__", "4.1.2")
    with pytest.raises(SetupError, match=r"found pyspark 4\.1\.2"):
        session.build(Config(), "never started")


def test_what_spark_submit_has_set_stays_except_what_decides_the_contents_of_tables():
    given = {
        "spark.master": "spark://elsewhere:7077",
        "spark.sql.shuffle.partitions": "7",
        "spark.sql.extensions": "com.example.Theirs",
        "spark.sql.session.timeZone": "America/New_York",
    }
    settings = session._settings(Config(spark=Spark(shuffle_partitions=3)), given)
    assert "spark.sql.shuffle.partitions" not in settings
    assert "spark.databricks.delta.snapshotPartitions" not in settings
    assert settings["spark.sql.extensions"] == f"com.example.Theirs,{session.DELTA_EXTENSION}"
    assert settings["spark.sql.session.timeZone"] == "UTC"


def test_the_kafka_connector_is_wanted_where_the_stream_reads_kafka(monkeypatch, tmp_path):
    monkeypatch.setattr(session, "_find_spark_home", lambda: str(tmp_path))
    (tmp_path / "jars").mkdir()
    kafka = Config(stream=Stream(source="kafka", kafka_servers="a:1", kafka_topic="t"))
    assert session._launch_settings(Config())["spark.jars.packages"] == session.DELTA_PACKAGE
    wanted = f"{session.DELTA_PACKAGE},{session.KAFKA_PACKAGE}"
    assert session._launch_settings(kafka)["spark.jars.packages"] == wanted
    for package in wanted.split(","):  # as scripts/prepare_spark.py and scripts/kafka.py put them there
        (tmp_path / "jars" / f"{package.replace(':', '_', 1).replace(':', '-')}.jar").touch()
    assert "spark.jars.packages" not in session._launch_settings(kafka)


def test_the_session_has_delta_and_utc_and_the_configured_partitions(spark):
    assert spark.version == "4.1.1"
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"
    assert spark.conf.get("spark.sql.shuffle.partitions") == "2"
    assert spark.conf.get("spark.sql.catalog.spark_catalog") == session.DELTA_CATALOG
    assert spark.sql("SELECT current_timezone()").first()[0] == "UTC"


@pytest.mark.slow
def test_under_spark_submit_a_job_runs_with_the_settings_of_spark_submit(tmp_path):
    job = tmp_path / "job.py"
    job.write_text(
        "from lakefactor.config import Config\n"
        "from lakefactor.spark import session\n"
        "spark = session.build(Config(), 'job')\n"
        f"spark.range(3).write.format('delta').save({str(tmp_path / 'table')!r})\n"
        "print([spark.conf.get('spark.sql.shuffle.partitions'), spark.sparkContext.master, spark.range(3).count()])\n"
    )
    package = Path(session.__file__).parents[2]
    submit = Path(sys.executable).with_name("spark-submit")
    outcome = subprocess.run(
        [submit, "--master", "local[1]", "--conf", "spark.sql.shuffle.partitions=3", job],
        env={**os.environ, "PYTHONPATH": str(package), "PYSPARK_PYTHON": sys.executable},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines() == ["['3', 'local[1]', 3]"]
