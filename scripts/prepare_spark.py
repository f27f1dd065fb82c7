"""Make the virtual environment's Spark complete: the Delta jars inside, the right Java and Python, and a proof.

Afterwards ``spark-submit`` and any session of this environment need no resolver and no network. Clusters get the same
jars by ``spark.jars.packages`` in conf/spark/*.conf instead.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pyspark

SPARK = Path(pyspark.__file__).parent
BIN = Path(sys.executable).parent
DELTA_GROUPS = ("io.delta", "io.unitycatalog")
SHIPPED_WITH_SPARK = ("org.slf4j:*", "org.apache.logging.log4j:*", "com.google.code.findbugs:*")
"""Dependencies of Delta that pyspark/jars already holds, in Spark's own version."""


def main() -> None:
    """Prepare and prove."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--java-home", type=Path, required=True, help="Java 17 or 21, as find_java.sh prints it")
    write_environment(parser.parse_args().java_home)
    if not (SPARK / "jars" / jar_name()).exists():
        fetch_jars()
    print("Checking Spark with Delta (about 15 seconds)", flush=True)
    submit(Path(__file__).with_name("check_spark.py"), "Spark cannot write and read a Delta table here: see above.")


def coordinate() -> str:
    """Return the Maven coordinate that belongs to the installed pyspark and delta-spark."""
    spark = ".".join(version("pyspark").split(".")[:2])
    return f"io.delta:delta-spark_{spark}_2.13:{version('delta-spark')}"


def jar_name() -> str:
    """Return the file name that Spark's resolver gives the Delta jar."""
    group, artifact, release = coordinate().split(":")
    return f"{group}_{artifact}-{release}.jar"


def write_environment(java_home: Path) -> None:
    """Let Spark's scripts find this Java and this Python also where the environment is not activated."""
    conf = SPARK / "conf"
    conf.mkdir(exist_ok=True)
    (conf / "spark-env.sh").write_text(
        "# Written by scripts/prepare_spark.py; `make setup` has checked that Spark runs on this Java.\n"
        f"JAVA_HOME='{java_home}'\n"
        f"PATH='{BIN}':\"$PATH\"\n"
    )
    finder = BIN / "find-spark-home"
    first_line = "#!/usr/bin/env bash"
    use_own_python = f"export PATH='{BIN}':\"$PATH\" # by scripts/prepare_spark.py: the python3 that has pyspark"
    text = finder.read_text()
    if use_own_python not in text:
        # Replaced, not edited: uv links the file to its cache, which other environments share.
        replacement = finder.with_suffix(".new")
        replacement.write_text(text.replace(first_line, f"{first_line}\n{use_own_python}", 1))
        shutil.copymode(finder, replacement)
        replacement.replace(finder)


def fetch_jars() -> None:
    """Let Spark's own resolver fetch Delta, and keep the jars where every session of this environment looks."""
    print(f"Fetching {coordinate()} (about 20 seconds, 15 MB)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        nothing = Path(folder, "nothing.py")
        nothing.touch()
        ivy = Path(folder, "ivy")
        submit(
            nothing,
            f"{coordinate()} could not be fetched: Java must reach and trust Maven Central or find it in ~/.m2.",
            f"spark.jars.packages={coordinate()}",
            f"spark.jars.excludes={','.join(SHIPPED_WITH_SPARK)}",
            f"spark.jars.ivy={ivy}",
        )
        for group in DELTA_GROUPS:
            for old in SPARK.glob(f"jars/{group}_*.jar"):
                old.unlink()
        for jar in sorted(ivy.glob("jars/*.jar"), key=lambda jar: jar.name == jar_name()):  # the one we test for: last
            shutil.copy(jar, SPARK / "jars")


def submit(script: Path, advice: str, *confs: str) -> None:
    """Run a script by the environment's spark-submit; where it fails, show why and end with the advice."""
    options = [word for conf in confs for word in ("--conf", conf)]
    command = [str(BIN / "spark-submit"), "--master", "local[1]", *options, str(script)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip() and not line.startswith("\tat ")]
        print("\n".join(lines[-20:]), file=sys.stderr)
        raise SystemExit(advice)


if __name__ == "__main__":
    main()
