"""Fetch the RAPIDS plugin into the environment, for tests of what it would move to a GPU: one jar of 1 GB.

By Spark's own resolver, as scripts/prepare_spark.py fetches Delta. Clusters get it by conf/spark/gpu.conf instead.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from prepare_spark import submit  # type: ignore[import-not-found]  # found beside this script

COORDINATE = "com.nvidia:rapids-4-spark_2.13:26.08.1"

SETTINGS = """
<ivysettings>
  <settings defaultResolver="central"/>
  <resolvers><ibiblio name="central" m2compatible="true" usepoms="false"/></resolvers>
</ivysettings>
"""
"""Maven Central (Ivy's default), the jar alone: it has no dependencies, and the parent of its POM may not be there."""


def main() -> None:
    """Fetch the jar, unless it is there."""
    group, artifact, release = COORDINATE.split(":")
    jar = Path(sys.prefix, "rapids", f"{artifact}-{release}.jar")
    if jar.is_file():
        return
    print(f"Fetching {COORDINATE} (1 GB)", flush=True)
    jar.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=jar.parent) as folder:  # beside its destination: a move, no second copy
        nothing = Path(folder, "nothing.py")
        nothing.touch()
        settings = Path(folder, "settings.xml")
        settings.write_text(SETTINGS)
        submit(
            nothing,
            f"{COORDINATE} could not be fetched: Java must reach and trust Maven Central.",
            f"spark.jars.packages={COORDINATE}",
            f"spark.jars.ivy={folder}/ivy",
            f"spark.jars.ivySettings={settings}",
        )
        Path(folder, "ivy", "jars", f"{group}_{artifact}-{release}.jar").replace(jar)


if __name__ == "__main__":
    main()
