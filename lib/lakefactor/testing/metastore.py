"""A Hive metastore on this machine: a process of the jars that pyspark brings, with its database in memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from pyspark.find_spark_home import _find_spark_home

from lakefactor.testing.ports import free_ports, listens

STARTING = 60.0
"""Longest wait (seconds) until it listens."""

SETTINGS = {
    "javax.jdo.option.ConnectionURL": "jdbc:derby:memory:metastore;create=true",
    "javax.jdo.option.ConnectionDriverName": "org.apache.derby.jdbc.EmbeddedDriver",
    "datanucleus.schema.autoCreateAll": "true",
    "hive.metastore.schema.verification": "false",
    "hive.async.log.enabled": "false",  # needs a jar that Spark leaves out
}


@contextmanager
def hive_metastore(folder: Path) -> Iterator[str]:
    """Run a metastore, and return its ``thrift://127.0.0.1:port``.

    Parameters
    ----------
    folder : Path
        Existing; for its settings, its log, and the schema `default`. Spark puts other schemas where it likes.

    Raises
    ------
    RuntimeError
        It did not come up; the text holds its log.
    """
    settings = SETTINGS | {"hive.metastore.warehouse.dir": (folder / "schemas").as_uri()}
    lines = (f"<property><name>{name}</name><value>{value}</value></property>" for name, value in settings.items())
    (folder / "hive-site.xml").write_text("\n".join(["<configuration>", *lines, "</configuration>"]))
    java = str(Path(os.environ["JAVA_HOME"], "bin", "java")) if "JAVA_HOME" in os.environ else "java"
    jars = Path(_find_spark_home(), "jars", "*")
    (port,) = free_ports(1)
    command = [java, "-Xmx256m", f"-Dderby.stream.error.file={folder}/derby.log", "-cp", f"{folder}:{jars}"]
    command += ["org.apache.hadoop.hive.metastore.HiveMetaStore", "-p", str(port)]
    with (folder / "metastore.log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        end = monotonic() + STARTING
        while not listens(port):
            if process.poll() is not None or monotonic() > end:
                raise RuntimeError(f"the metastore did not come up:\n{(folder / 'metastore.log').read_text()[-2000:]}")
            sleep(0.1)
        yield f"thrift://127.0.0.1:{port}"
    finally:
        process.kill()  # its database is for this once
        process.wait()
