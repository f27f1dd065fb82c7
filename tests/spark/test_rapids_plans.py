"""Our own pipelines under the RAPIDS plugin, without a GPU: what would stay on the CPU is what the allow-list says.

The plugin's mode explainOnly runs everything on the CPU and logs, for each plan, what it could not move and why. Needs
the plugin's jar (1 GB): `make rapids` fetches it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lakefactor.testing.spark_conf import read_conf

CHECKOUT = Path(__file__).parents[2]
VERSION = "26.08.1"
JAR = Path(sys.prefix, "rapids", f"rapids-4-spark_2.13-{VERSION}.jar")
ALLOW_LIST = Path(__file__).with_name("rapids_allow_list.yaml")
GPU_CONF = CHECKOUT / "conf" / "spark" / "gpu.conf"

# Delta reads its own log and history by Spark too; only the plans of our rows are compared.
DELTAS_OWN = re.compile(r"org\.apache\.spark\.sql\.delta\.actions|commitInfo|partitionValues")
STAYS = re.compile(r"^\s*!\w* ?<(\w+)> .*?(?:cannot run|cannot be|cannot).*? because (.*)$")

LOG4J = """
rootLogger.level = error
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = @@%c{{1}}@@%m%n%ex
logger.overrides.name = com.nvidia.spark.rapids.GpuOverrides
logger.overrides.level = warn
"""


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one run of all pipelines: ``explain.log``, and ``keys.txt`` with the plugin's own list."""
    if not JAR.is_file():
        pytest.skip(f"no RAPIDS plugin at {JAR}; `make rapids` fetches it (1 GB)")
    folder = tmp_path_factory.mktemp("rapids")
    log4j = folder / "log4j2.properties"
    log4j.write_text(LOG4J.format(file=folder / "explain.log"))
    settings = {key: value for key, value in read_conf(GPU_CONF).items() if key.startswith("spark.rapids.")}
    settings |= {
        "spark.plugins": "com.nvidia.spark.SQLPlugin",
        "spark.rapids.sql.mode": "explainOnly",
        "spark.rapids.sql.explain": "NOT_ON_GPU",
        "spark.driver.extraClassPath": str(JAR),
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={log4j.as_uri()}",
        "spark.log.level": "ERROR",
        "spark.ui.enabled": "false",
        # The plugin cannot see from a plan in steps whether a join's broadcast side is on the GPU as well.
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
    }
    command = [str(Path(sys.executable).with_name("spark-submit")), "--master", "local[2]", "--driver-memory", "2g"]
    command += [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
    command += [str(Path(__file__).with_name("rapids_driver.py")), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "lib"), "PYSPARK_PYTHON": sys.executable}
    environment["SPARK_LOCAL_IP"] = "127.0.0.1"
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    (folder / "keys.txt").write_text(done.stdout)
    return folder


def plans(log: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (step, the lines of a plan) for each plan that the plugin explained."""
    step = ""
    for part in re.split(r"^@@", log, flags=re.MULTILINE)[1:]:
        logger, _, message = part.partition("@@")
        if logger == "Step":
            step = message.strip()
        elif logger == "GpuOverrides" and not DELTAS_OWN.search(message):
            yield step, message.splitlines()


def stays_on_cpu(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (operator or expression, why it cannot run on the GPU), the numbers of columns left out."""
    for line in lines:
        if found := STAYS.match(line):
            yield found[1], re.sub(r"#\d+L?", "", found[2])


def test_what_stays_on_the_cpu_is_on_the_allow_list_and_nothing_else_is(explained: Path) -> None:
    allowed = yaml.safe_load(ALLOW_LIST.read_text())
    seen: list[set[str]] = [set() for _ in allowed]
    unexpected = set()
    for step, lines in plans((explained / "explain.log").read_text()):
        for operator, why in stays_on_cpu(lines):
            entry = next((i for i, e in enumerate(allowed) if e["operator"] == operator and e["why"] in why), None)
            if entry is None or step not in allowed[entry]["steps"]:
                unexpected.add((step, operator, why[:300]))
            else:
                seen[entry].add(step)
    assert sorted(unexpected) == []
    stale = [
        (e["operator"], e["why"], sorted(set(e["steps"]) - found))
        for e, found in zip(allowed, seen, strict=True)
        if set(e["steps"]) != found
    ]
    assert stale == []


def test_every_step_was_explained(explained: Path) -> None:
    log = (explained / "explain.log").read_text()
    steps = [line for line in log.splitlines() if line.startswith("@@Step@@")]
    names = ["ingest", "interactions", "train", "splits", "evaluate", "publish", "recommend"]
    assert steps == [f"@@Step@@{name}" for name in names]


def test_the_plugin_knows_every_key_of_the_conf_files(explained: Path) -> None:
    known = set(re.findall(r"^(spark\.rapids\.\S+):", (explained / "keys.txt").read_text(), re.MULTILINE))
    assert len(known) > 100
    for conf in (CHECKOUT / "conf" / "spark").glob("*.conf"):
        used = {key for key in read_conf(conf) if key.startswith("spark.rapids.")}
        assert used <= known, conf.name


def test_gpu_conf_asks_for_the_release_that_is_tested_here() -> None:
    conf = read_conf(GPU_CONF)
    for classpath in ("spark.driver.extraClassPath", "spark.executor.extraClassPath"):
        assert Path(conf[classpath]).name == JAR.name
    share = float(conf["spark.task.resource.gpu.amount"])
    assert share * int(conf["spark.executor.cores"]) == 1


@pytest.mark.parametrize("entry", yaml.safe_load(ALLOW_LIST.read_text()), ids=lambda entry: entry["operator"])
def test_each_entry_of_the_allow_list_has_a_reason(entry: dict[str, object]) -> None:
    assert set(entry) == {"operator", "why", "steps", "reason"}
    assert len(str(entry["reason"])) > 20
