"""A real Kafka broker of one node (KRaft) on loopback, for tests and for trying streams out.

Its jars, and those of Spark's connector, come by Spark's own resolver, as scripts/prepare_spark.py fetches Delta. The
connector goes where every session of this environment looks; clusters get it by ``spark.jars.packages``.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from prepare_spark import SPARK, submit  # type: ignore[import-not-found]  # found beside this script

from lakefactor.testing.ports import listens

BROKER = "org.apache.kafka:kafka_2.13:4.1.0,org.slf4j:slf4j-simple:1.7.36"  # with something that writes its log
CONNECTOR = "org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.1"
NOT_IN_SPARK = ("spark-sql-kafka-0-10", "spark-token-provider-kafka", "kafka-clients", "commons-pool2")
"""The connector's dependencies that pyspark/jars does not hold already."""

HOME = Path(sys.prefix, "kafka")
START_SECONDS = 90
QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"

SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/logs
num.partitions=2
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


def main() -> None:
    """Start or stop the broker of this environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("fetch", "up", "down"))
    parser.add_argument("--port", type=int, default=9092, help="of the broker; the controller takes the next one")
    options = parser.parse_args()
    if options.action == "down":
        print("stopped" if down(HOME / "run") else "no broker was running")
        return
    fetch()
    if options.action == "up":
        up(HOME / "run", options.port, options.port + 1)
        print(f"Kafka listens at 127.0.0.1:{options.port}; `make kafka-down` stops it")


def fetch() -> None:
    """Fetch the broker's jars and the connector's, unless they are there.

    Raises
    ------
    SystemExit
        Maven Central cannot be reached.
    """
    broker = HOME / "broker"
    if not broker.is_dir():
        _fetch(BROKER, broker)
    release = CONNECTOR.rpartition(":")[2]
    if not any(SPARK.glob(f"jars/*spark-sql-kafka-0-10_2.13-{release}.jar")):
        with tempfile.TemporaryDirectory(dir=HOME) as folder:
            _fetch(CONNECTOR, Path(folder, "jars"))
            wanted = [jar for jar in Path(folder, "jars").iterdir() if any(name in jar.name for name in NOT_IN_SPARK)]
            for jar in sorted(wanted, key=lambda jar: NOT_IN_SPARK[0] in jar.name):  # the one we test for: last
                shutil.copy(jar, SPARK / "jars")


def _fetch(coordinate: str, jars: Path) -> None:
    print(f"Fetching {coordinate} (about 20 seconds, 60 MB)", flush=True)
    HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        nothing = Path(folder, "nothing.py")
        nothing.touch()
        submit(
            nothing,
            f"{coordinate} could not be fetched: Java must reach and trust Maven Central or find it in ~/.m2.",
            f"spark.jars.packages={coordinate}",
            f"spark.jars.ivy={folder}/ivy",
        )
        Path(folder, "ivy", "jars").replace(jars)


def up(folder: Path, port: int, controller: int) -> subprocess.Popen[bytes]:
    """Start a broker whose data, log and pid file are in `folder`, and return its process when it answers.

    Raises
    ------
    SystemExit
        One is running there already, or this one does not start.
    """
    if _pid(folder) is not None:
        raise SystemExit(f"a broker is running already (pid {_pid(folder)}): `make kafka-down` stops it")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = folder / "server.properties"
    settings.write_text(SETTINGS.format(folder=folder, port=port, controller=controller))
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    log = folder / "broker.log"
    with log.open("w") as output:
        words = (
            "kafka.tools.StorageTool",
            "format",
            "--standalone",
            f"--cluster-id={cluster}",
            "--config",
            str(settings),
        )
        subprocess.run(_java(*words), stdout=output, stderr=subprocess.STDOUT, check=False)
        command = _java("kafka.Kafka", str(settings))
        broker = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    (folder / "pid").write_text(str(broker.pid))
    end = time.monotonic() + START_SECONDS
    while not listens(port):
        if broker.poll() is not None or time.monotonic() > end:
            down(folder)
            raise SystemExit(f"Kafka did not start: {log.read_text()[-2000:]}")
        time.sleep(0.2)
    return broker


def down(folder: Path) -> bool:
    """Stop the broker of `folder`, and say whether one was running."""
    pid = _pid(folder)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)  # its data is for this once
        while _is_broker(pid):
            time.sleep(0.05)
    (folder / "pid").unlink(missing_ok=True)
    return pid is not None


def _java(*words: str) -> list[str]:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    scala = next(SPARK.glob("jars/scala-library-2.13.*.jar"))  # the resolver leaves it out, as Spark has it
    return [java, "-Xmx256m", "-XX:+UseSerialGC", "-cp", f"{HOME}/broker/*:{scala}", QUIET, *words]


def _pid(folder: Path) -> int | None:
    """Return the process that runs the broker of `folder`, if it is still that."""
    try:
        pid = int((folder / "pid").read_text())
    except (OSError, ValueError):
        return None
    return pid if _is_broker(pid) else None


def _is_broker(pid: int) -> bool:
    """Tell whether a process is a broker, and no other one that got its number."""
    if Path("/proc/self").exists():  # small containers have no ps
        try:
            return b"kafka.Kafka" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
    done = subprocess.run(["ps", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "kafka.Kafka" in done.stdout and not done.stdout.startswith("Z")


if __name__ == "__main__":
    main()
