"""The process: it listens, it is killed, and it says when it cannot listen."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


def command(root, port: int) -> list[str]:
    settings = (f"tables.root={root}", f"serve.port={port}")
    run = [sys.executable, "-c", "from lakefactor.cli import main; main()", "serve"]
    return [*run, *(word for text in settings for word in ("--set", text))]


@contextmanager
def started(root) -> Iterator[tuple[subprocess.Popen, dict[str, dict]]]:
    """Start the service, and wait until its log says that it has a model."""
    process = subprocess.Popen(command(root, 0), stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    said: dict[str, dict] = {}
    try:
        for line in process.stderr:
            told = json.loads(line)
            said[told["event"]] = told
            if {"listening", "snapshot"} <= said.keys():
                break
        yield process, said
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_it_answers_and_ends_when_it_is_told_to(warehouse):
    with started(warehouse.root) as (process, said):
        url = f"http://127.0.0.1:{said['listening']['port']}/v1/recommend?user=u0&n=3"
        with urllib.request.urlopen(url) as answer:
            found = json.load(answer)
        assert found["items"] == warehouse.client.recommend("u0", 3).to_pylist()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)


def test_a_port_is_free_again_after_a_kill(warehouse):
    with started(warehouse.root) as (process, said):
        port = said["listening"]["port"]
        process.kill()
        process.wait()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_is_told_in_one_line(warehouse):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(command(warehouse.root, port), capture_output=True, text=True)
    assert done.returncode == 3
    assert f"cannot listen on 127.0.0.1, port {port}: something else listens there" in done.stderr
    assert len(done.stderr.splitlines()) == 1
