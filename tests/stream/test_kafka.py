"""Against a real broker, which `make test-kafka` fetches before it runs these alone."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import uuid
from pathlib import Path

import pytest

from lakefactor.config import Config
from lakefactor.errors import InputError
from lakefactor.pipelines import stream
from lakefactor.spark.session import KAFKA_SOURCE
from lakefactor.testing import stream_runs
from lakefactor.testing.ports import free_ports
from lakefactor.testing.streams import drain, streaming

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="session")
def kafka():
    """scripts/kafka.py, after it has fetched its jars: before Spark starts, which is to find them."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("kafka_script", SCRIPTS / "kafka.py")
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        script.fetch()
    except SystemExit as reason:
        pytest.skip(str(reason))
    finally:
        sys.path.remove(str(SCRIPTS))
    return script


@pytest.fixture(scope="session")
def connected(kafka, request):
    """The shared session, if it has the connector."""
    spark = request.getfixturevalue("spark")
    if not spark._jvm.org.apache.spark.util.Utils.classIsLoadable(KAFKA_SOURCE):
        pytest.skip("this Spark was started before its Kafka connector was fetched: run the tests again")
    return spark


@pytest.fixture(scope="session")
def servers(kafka, tmp_path_factory):
    """Bootstrap servers of a broker of these tests alone."""
    folder = tmp_path_factory.mktemp("kafka") / "broker"
    port, controller = free_ports(2)
    try:
        broker = kafka.up(folder, port, controller)
    except SystemExit as reason:
        pytest.fail(str(reason))
    yield f"127.0.0.1:{port}"
    assert kafka.down(folder)
    broker.wait()


def other(settings, **changes):
    return Config(**{**dict(settings), "stream": settings.stream.model_copy(update=changes)})


@pytest.fixture
def topic():
    return f"topic-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def settings(config, servers, topic):
    return streaming(config, "kafka", kafka_servers=servers, kafka_topic=topic)


def send(spark, settings, *values, partition=0):
    """Append messages to a partition, in order."""
    rows = spark.createDataFrame([(value, partition) for value in values], "value string, partition int").coalesce(1)
    options = {"kafka.bootstrap.servers": settings.stream.kafka_servers, "topic": settings.stream.kafka_topic}
    rows.write.format("kafka").options(**options).save()


def delete_messages(spark, settings, upto):
    """Delete the messages of partition 0 before an offset, as retention does."""
    jvm = spark._jvm
    properties = jvm.java.util.Properties()
    properties.put("bootstrap.servers", settings.stream.kafka_servers)
    client = jvm.org.apache.kafka.clients.admin.Admin.create(properties)
    try:
        kind = jvm.java.lang.Class.forName("org.apache.kafka.clients.admin.RecordsToDelete")
        (before,) = (one for one in kind.getMethods() if one.getName() == "beforeOffset" and one.getParameterCount())
        offset = spark.sparkContext._gateway.new_array(jvm.Object, 1)  # Py4J does not see the static method itself
        offset[0] = upto
        partition = jvm.org.apache.kafka.common.TopicPartition(settings.stream.kafka_topic, 0)
        client.deleteRecords({partition: before.invoke(None, offset)}).all().get()
    finally:
        client.close()


def seen(batch):
    """Return (user, item, type, value, seconds, partition) of the events."""
    keys = ("user_id", "item_id", "event_type", "value", "event_time", "source")
    rows = (tuple(event[key] for key in keys) for event in batch.events)
    return sorted(
        (user, item, kind, value, time and time.timestamp(), int(source.rpartition("/")[2]))
        for user, item, kind, value, time, source in rows
    )


TIMED = (
    '{"user": "u1", "item": "i1", "rating": 3, "timestamp": 100, "device": {"os": "x"}}',
    '{"timestamp": 100, "item": "i1", "rating": 3.0, "user": "u1"}',
    '{"user": 7, "item": "i2", "rating": "4", "timestamp": 200, "event_type": "purchase"}',
)
UNTIMED = ('{"user": "u2", "item": "i1"}', '{"user": "u2", "item": "i1"}')
BAD = (
    '{"user": "u9"',
    "[1, 2]",
    "",
    None,
    '{"item": "i1", "rating": 2}',
    '{"user": "u1", "item": "i1", "rating": "x"}',
)


def test_messages_become_events_and_rejects(connected, settings, topic, tmp_path):
    send(connected, settings, *TIMED, *BAD)
    send(connected, settings, *UNTIMED, partition=1)
    (batch,) = drain(connected, settings)
    assert seen(batch) == [
        ("7", "i2", "purchase", 4.0, 200.0, 0),
        ("u1", "i1", "interaction", 3.0, 100.0, 0),
        ("u2", "i1", "interaction", 1.0, None, 1),
        ("u2", "i1", "interaction", 1.0, None, 1),
    ]
    assert (batch.read, batch.duplicates, batch.appended) == (11, 1, False)
    assert sorted((row["source"], row["reason"], row["content"]) for row in batch.rejects) == sorted(
        (f"kafka:{topic}/0", reason, BAD[number] or "")
        for number, reason in enumerate(["line is malformed"] * 4 + ["user id is empty", "value is not a number"])
    )
    folder = tmp_path / "landing"
    folder.mkdir()
    (folder / "same.jsonl").write_text("\n".join(TIMED))
    (same,) = drain(connected, streaming(settings, "files", name="files", path=str(folder)))
    timed = {row["event_id"] for row in batch.events if row["event_time"]}
    assert {row["event_id"] for row in same.events} == timed  # with a time it is the same event, whoever brings it


def test_a_message_is_the_same_event_however_often_and_in_whatever_batches_it_comes(connected, settings):
    send(connected, settings, *UNTIMED, *BAD, *UNTIMED)
    (whole,) = drain(connected, settings)
    parts = drain(connected, other(settings, name="again", max_rows=3))
    assert [part.read for part in parts] == [3, 3, 3, 1]
    for rows in ("events", "rejects"):
        found = sorted((row for part in parts for row in getattr(part, rows)), key=repr)
        assert found == getattr(whole, rows)
    assert (len(whole.events), len(whole.rejects)) == (4, 6)


def test_a_restart_goes_on_where_the_stream_stopped(connected, settings):
    send(connected, settings, TIMED[0])
    (first,) = drain(connected, settings)
    assert drain(connected, settings) == []
    send(connected, settings, TIMED[2], TIMED[0])
    (second,) = drain(connected, settings)
    assert (first.number, second.number, second.read) == (0, 1, 2)
    assert first.events[0] in second.events  # delivered again: the same id


def test_a_batch_of_bad_messages_alone_does_not_stop_the_stream(connected, settings):
    send(connected, settings, "nonsense", '{"other": 1}')
    (batch,) = drain(connected, settings)
    assert batch.reasons == {"line is malformed": 1, "user id is empty": 1}


def test_configured_keys_are_used_and_may_be_absent(connected, settings):
    settings = Config(**{**dict(settings), "ingest": settings.ingest.model_copy(update={"value_column": "price"})})
    send(connected, settings, '{"uid": "u1", "sku": "i1", "rating": 5}', '{"uid": "u1", "sku": "i2"}')
    (batch,) = drain(connected, settings)
    assert batch.reasons == {"value is empty": 2}
    send(connected, settings, '{"uid": "u1", "sku": "i1", "price": 2, "rating": 5}')
    (batch,) = drain(connected, settings)
    assert seen(batch) == [("u1", "i1", "interaction", 2.0, None, 0)]


def test_messages_that_have_gone_are_refused(connected, settings, topic):
    send(connected, settings, TIMED[0])
    drain(connected, settings)
    send(connected, settings, TIMED[1], TIMED[2])
    delete_messages(connected, settings, upto=2)
    with pytest.raises(InputError, match=rf"{topic} no longer holds messages .*another stream\.name"):
        drain(connected, settings)


def test_a_broker_that_does_not_answer_is_named(connected, settings, kafka):
    (port,) = free_ports(1)
    quick = {"kafka.default.api.timeout.ms": "1500", "kafka.request.timeout.ms": "1000"}
    with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}.*stream\.kafka_servers"):
        drain(connected, other(settings, kafka_servers=f"127.0.0.1:{port}", kafka_options=quick))


def test_a_topic_that_is_not_there_is_named(connected, settings):
    with pytest.raises(InputError, match=r"no topic topic-\w+ .*stream\.kafka_topic"):
        drain(connected, settings)


def test_messages_are_learned_as_the_same_events_of_a_landing_folder(connected, servers, topic, place):
    shutil.copytree(place / "warehouse", place / "other")
    files = stream_runs.settings(place / "warehouse", place / "landing", item_rule="exact")
    kafka_keys = {"source": "kafka", "kafka_servers": servers, "kafka_topic": topic}
    topics = stream_runs.settings(place / "other", place / "landing", item_rule="exact", **kafka_keys)
    rows = [*stream_runs.lines(11, 20, first=stream_runs.EVENTS), "u901,i901,1,1700100000"]
    stream_runs.write(place / "landing", "1.csv", rows)
    messages = [json.dumps(dict(zip(("user", "item", "value", "time"), row.split(","), strict=True))) for row in rows]
    send(connected, topics, *messages, '{"user": "u001"}', messages[0])
    stream.run(connected, files, available_now=True)
    result = stream.run(connected, topics, available_now=True)
    assert (result.read, result.accepted, result.duplicates, result.rejected) == (23, 21, 1, 1)
    found, expected = (stream_runs.outcome(connected, config) for config in (topics, files))
    for table in ("factor_updates", "recommendations", "similar_items"):
        assert found[table] == expected[table], table
    send(connected, topics, messages[1])
    again = stream.run(connected, topics, available_now=True)
    assert (again.batches, again.accepted, again.duplicates) == (1, 0, 1)
