"""What nobody may read stays where it was put: a canary in every place for a secret, sought wherever a run writes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet

from lakefactor.config import Config
from lakefactor.testing.stream_runs import lines, write

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.long,
]

MARK = "canary-7f3a9c"
PLACES = (
    "connection-login", "connection-password", "connection-extra", "variable", "s3-access", "s3-secret",
    "azure-account", "key-store", "kafka-jaas", "kafka-trust-store",
)  # fmt: skip


def canary(place: str) -> str:
    assert place in PLACES
    return f"{MARK}-{place}"


def spark_conf(folder: Path, event_logs: Path) -> Path:
    """Write Spark's settings with secrets, and with event logs as plain text."""
    settings = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": event_logs.as_uri(),
        "spark.hadoop.fs.s3a.access.key": canary("s3-access"),
        "spark.hadoop.fs.s3a.secret.key": canary("s3-secret"),
        "spark.hadoop.fs.azure.account.key.lake.dfs.core.windows.net": canary("azure-account"),
        "spark.ssl.keyStorePassword": canary("key-store"),
    }
    file = folder / "spark.conf"
    file.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    return file


def lakefactor_conf(folder: Path, config: Config) -> Path:
    """Write a small run's configuration, with secrets for a Kafka that nobody asks."""
    file = folder / "lakefactor.toml"
    file.write_text(f"""
tables = {{ root = "{config.tables.root}" }}
spark = {{ driver_memory = "1g", shuffle_partitions = 2 }}
model = {{ rank = 4 }}
train = {{ ranks = 2, iterations = 2 }}
evaluate = {{ split = "random_holdout", replicates = 0 }}
publish = {{ beat_popularity = false }}
recommend = {{ n = 3 }}
[stream.kafka_options]
"kafka.sasl.jaas.config" = '{canary("kafka-jaas")}'
"kafka.ssl.truststore.password" = '{canary("kafka-trust-store")}'
""")
    return file


def written(folder: Path) -> dict[str, str]:
    """Return the text of all that is in a folder, by file; of databases and tables' files what they say."""
    found = {str(path): path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()}
    for path in folder.rglob("*.db"):
        with sqlite3.connect(path) as database:
            found[f"{path} as SQL"] = "\n".join(database.iterdump())
    for path in folder.rglob("*.parquet"):  # those that a table no longer reads too
        found[f"{path} as rows"] = "\n".join(map(repr, parquet.read_table(path).to_pylist()))
    return found


def leaks(texts: dict[str, str]) -> list[str]:
    return [f"{place} in {name}" for name, text in texts.items() for place in PLACES if canary(place) in text]


def test_no_secret_gets_into_logs_databases_or_tables(spark, config, airflow, tmp_path):
    home, event_logs, secret = tmp_path / "airflow", tmp_path / "event-logs", tmp_path / "secret"
    for folder in (home, event_logs, secret):
        folder.mkdir()
    write(tmp_path, "events.csv", lines(1, 300))
    extra = {"deploy-mode": "client", "api_key": canary("connection-extra")}
    connection = {"conn_type": "spark", "host": "local[2]", "login": canary("connection-login"), "extra": extra}
    conf = str(spark_conf(secret, event_logs))
    fresh = airflow.at(home)
    variables = {
        "AIRFLOW_CONN_LAKEFACTOR_SPARK": json.dumps(connection | {"password": canary("connection-password")}),
        "AIRFLOW_VAR_LAKEFACTOR_PASSWORD": canary("variable"),
        "AIRFLOW_VAR_LAKEFACTOR_CONFIG": str(lakefactor_conf(secret, config)),
        "AIRFLOW_VAR_LAKEFACTOR_SPARK_CONF": conf,
        "AIRFLOW_VAR_LAKEFACTOR_TRAIN_SPARK_CONF": conf,
    }
    fresh = replace(fresh, environment=fresh.environment | variables)
    printed = {}
    for dag, params in {"ingest": {"path": str(tmp_path / "events.csv")}, "train": {}}.items():
        printed[dag], _ = fresh.start(dag, **params).communicate()
        assert json.loads(printed[dag].splitlines()[-1])["state"] == "success", printed[dag][-10_000:]

    texts = printed | written(home) | written(event_logs) | written(Path(config.tables.root))
    everything = "\n".join(texts.values())
    for said in (
        "Spark-Submit cmd",
        "SparkListenerEnvironmentUpdate",
        "rendered_task_instance_fields",
        "kafka_options",
    ):
        assert said in everything, f"nothing was looked at that says {said}"
    assert leaks(texts) == []
