"""The service under a steady load: loopback, requests sent when they are due whatever is still unanswered.

A temporary warehouse of random factors of decaying size, written by delta-rs; `lakefactor serve` as a process of its
own; a load generator in another. A latency counts from the moment at which a request was due, so waiting is in it.
Beside them a version is published under load, and the index for approximate search is held against the true lists.
``make bench-serve`` runs this; a trial: ``ARGS="--items 2000 --seconds 3 --ann-items 20000 --out FILE"``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from deltalake import write_deltalake
from machine import machine

from lakefactor.client.loaded import LoadedModel
from lakefactor.config import Config, canonical_json, changed
from lakefactor.factorization.catalogue import Catalogue, as_lists
from lakefactor.service.id_rows import IdRows
from lakefactor.service.item_index import ItemIndex
from lakefactor.service.ranking import Wanted
from lakefactor.service.snapshot import ranking_of
from lakefactor.service.users import Users

RESULTS = Path(__file__).parent / "results" / "serve.json"
LIBRARIES = ("numpy", "numba", "fastapi", "uvicorn", "uvloop", "httptools", "orjson", "faiss-cpu", "deltalake")
RANK, USERS, HISTORY, RATE, N = 64, 20_000, 30, 200, 10
CONNECTIONS = 32
VERSIONS = ("20261120-080000-aaaa", "20261122-090000-bbbb")
OPERATIONS = ("recommend", "similar", "fold_in")


def factors(rows: int, seed: int) -> np.ndarray:
    """Return rows around 200 tastes, with columns of decaying size and rows of different length, as trainings give."""
    random = np.random.default_rng(seed)
    tastes = np.random.default_rng(0).normal(size=(200, RANK))
    found = 0.7 * tastes[random.integers(0, 200, rows)] + random.normal(size=(rows, RANK))
    found *= random.gamma(2, 0.5, size=(rows, 1)) / np.sqrt(np.arange(1, RANK + 1))
    return found.astype(np.float32)


def write_tables(root: Path, n_items: int) -> None:
    """Write two versions of a model; the first is live."""
    config = canonical_json(changed(Config(), {"model.rank": RANK}))
    rows = {"model_version": VERSIONS, "config": [config] * 2, "mean": [0.0] * 2, "n_users": [USERS] * 2}
    empty = {"made_from": pa.nulls(2, pa.string()), "removed_at": pa.nulls(2, pa.timestamp("us", "UTC"))}
    write_deltalake(str(root / "models"), pa.table(rows | empty))
    for seed, version in enumerate(VERSIONS):
        for side, count in (("user", USERS), ("item", n_items)):
            table = {
                "model_version": [version] * count,
                f"{side}_id": [f"{side}{n:07d}" for n in range(count)],
                "factors": as_lists(factors(count, 10 * seed + len(side) + ord(side[0]))),
                "bias": np.zeros(count, np.float32),
                "n_entries": np.arange(count, dtype=np.int64),
                "updated_at": pa.nulls(count, pa.timestamp("us", "UTC")),
                "batch_id": np.full(count, -1, np.int64),
            }
            write_deltalake(str(root / f"{side}_factors"), pa.table(table), mode="append")
    random = np.random.default_rng(2)
    items = np.concatenate([random.choice(n_items, HISTORY, replace=False) for _ in range(USERS)])
    pairs = {
        "user_id": np.repeat([f"user{n:07d}" for n in range(USERS)], HISTORY).tolist(),
        "item_id": [f"item{n:07d}" for n in items],
        "strength": np.ones(len(items)),
    }
    write_deltalake(str(root / "interactions"), pa.table(pairs))
    publish(root, VERSIONS[0])


def publish(root: Path, version: str) -> None:
    """Make a version the live one, in one commit."""
    row = pa.table({"name": ["default"], "model_version": [version]})
    write_deltalake(str(root / "live_model"), row, mode="overwrite")


def request(operation: str, random: np.random.Generator, n_items: int) -> bytes:
    """Return a request as it goes over the wire."""
    if operation == "fold_in":
        some = random.choice(n_items, 20, replace=False)
        body = orjson.dumps({"items": [{"item": f"item{n:07d}", "strength": 2.0} for n in some]})
        head = f"POST /v1/fold-in HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Host: localhost\r\n\r\n".encode() + body
    path = f"recommend?user=user{random.integers(USERS):07d}&n={N}"
    if operation == "similar":
        path = f"similar?item=item{random.integers(n_items):07d}&n={N}"
    return f"GET /v1/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Load:
    """Sends requests when they are due, over connections that stay open."""

    def __init__(self, port: int, rate: float, requests: list[bytes]) -> None:
        self._port, self._rate, self._requests = port, rate, requests
        self.latencies: list[float] = []
        self.versions: dict[str, int] = {}
        self.errors = 0
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def run(self) -> float:
        """Send all; return the seconds from the first due moment to the last answer."""
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))
        start = time.perf_counter() + 0.1
        sent = []
        for number, text in enumerate(self._requests):
            due = start + number / self._rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent.append(asyncio.create_task(self._ask(text, due)))
        await asyncio.gather(*sent)
        return time.perf_counter() - start

    async def _ask(self, text: bytes, due: float) -> None:
        reader, writer = await self._free.get()
        try:
            writer.write(text)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            self.latencies.append(time.perf_counter() - due)
            self.errors += not head.startswith(b"HTTP/1.1 200")
            version = orjson.loads(body).get("model_version", "none")
            self.versions[version] = self.versions.get(version, 0) + 1
            self._free.put_nowait((reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            self.errors += 1
            self._free.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))


def loaded(port: int, operation: str, seconds: float, n_items: int, rate: float, begun: Any, answers: Any) -> None:
    """Put a load on the service, in a process of its own, and hand over what it saw."""
    import uvloop

    random = np.random.default_rng(4)
    load = Load(port, rate, [request(operation, random, n_items) for _ in range(round(rate * seconds))])
    begun.set()
    took = uvloop.run(load.run())
    p50, p99 = np.quantile(load.latencies, [0.5, 0.99]) * 1000
    answers.put(
        {
            "requests": len(load.latencies),
            "requests_per_second": len(load.latencies) / took,
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": max(load.latencies) * 1000,
            "errors": load.errors,
            "versions": load.versions,
        }
    )


def measured(
    service: tuple[int, int], operation: str, seconds: float, n_items: int, meanwhile: Callable[[], None]
) -> dict[str, Any]:
    """Measure one operation of the service with this process id and port."""
    context = multiprocessing.get_context("spawn")
    answers, begun, (pid, port) = context.Queue(), context.Event(), service
    process = context.Process(target=loaded, args=(port, operation, seconds, n_items, RATE, begun, answers))
    process.start()
    begun.wait()
    before = _cpu_seconds(pid)
    meanwhile()
    found: dict[str, Any] = answers.get()
    found["service_cpu_ms_per_request"] = (_cpu_seconds(pid) - before) * 1000 / found["requests"]
    process.join()
    return found


def _cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has had, which its neighbours do not change."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def started(root: Path) -> tuple[subprocess.Popen[str], int]:
    """Start the service; return it and its port as soon as it has a model."""
    settings = (f"tables.root={root}", "serve.port=0", "serve.requests_per_second=0", "serve.poll_seconds=1")
    options = [word for text in settings for word in ("--set", text)]
    run = [sys.executable, "-c", "from lakefactor.cli import main; main()", "serve", *options]
    log = root.parent / "serve.log"
    with log.open("w") as sink:
        process = subprocess.Popen(run, stderr=sink, text=True)
    while True:
        said = {line["event"]: line for line in map(json.loads, log.read_text().splitlines()) if "event" in line}
        if {"listening", "snapshot"} <= said.keys():
            return process, said["listening"]["port"]
        if process.poll() is not None:
            raise SystemExit(f"the service did not start: {log.read_text()}")
        time.sleep(0.1)


def approximate(n_items: int) -> dict[str, Any]:
    """Measure the index: how long it takes to make, its recall, and a search beside a scan of all items."""
    items = factors(n_items, 1)
    ids = pa.array([f"item{n:07d}" for n in range(n_items)])
    catalogue = Catalogue(ids, items, np.zeros(n_items, np.float32), np.zeros(n_items, np.int64))
    users = Users(IdRows(pa.array([f"u{n:03d}" for n in range(200)])), factors(200, 2), np.zeros(200, np.float32))
    model = LoadedModel("", changed(Config(), {"model.rank": RANK}), 0.0, len(users), None, catalogue, -1)
    start = time.perf_counter()
    ranking = ranking_of(model, users, changed(Config(), {"serve.approximate_above": 1}))
    made = time.perf_counter() - start
    assert isinstance(ranking.index, ItemIndex)
    return {
        "items": n_items,
        "seconds_to_make": made,
        "recall_at_100": ranking.index.recall,
        "exact_ms": _median_ms(ranking.best_of_all, users),
        "approximate_ms": _median_ms(ranking.best, users),
    }


def _median_ms(rank: Callable[[Any], Any], users: Users) -> float:
    times = []
    for row in range(50):
        wanted = Wanted(users.factors[row], 0.0, np.empty(0, np.int32), N)
        start = time.perf_counter()
        rank([wanted])
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1000


def main() -> None:
    """Run all, print a table and one line of JSON, and keep the raw results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--ann-items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of load for each operation")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    record: dict[str, Any] = {"machine": machine(LIBRARIES), "rate": RATE, "items": options.items, "rank": RANK}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tables"
        write_tables(root, options.items)
        process, port = started(root)
        try:
            service = process.pid, port
            for operation in OPERATIONS:
                record[operation] = measured(service, operation, options.seconds, options.items, lambda: None)
            half = partial(_later, options.seconds / 2, partial(publish, root, VERSIONS[1]))
            record["published_under_load"] = measured(service, "recommend", options.seconds, options.items, half)
        finally:
            process.terminate()
            process.wait()
    record["approximate"] = approximate(options.ann_items)
    record["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    _show(record)


def _later(seconds: float, action: Callable[[], None]) -> None:
    time.sleep(seconds)
    action()


def _show(record: dict[str, Any]) -> None:
    loads = (*OPERATIONS, "published_under_load")
    print(f"{record['items']:,} items, rank {RANK}, {RATE} requests/s due, {record['machine']['cores']} cores for all")
    print(f"{'':24}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}{'CPU ms':>8}{'errors':>8}")
    for name in loads:
        row = record[name]
        numbers = f"{row['p50_ms']:>10.2f}{row['p99_ms']:>10.2f}{row['max_ms']:>10.1f}"
        numbers += f"{row['service_cpu_ms_per_request']:>8.2f}{row['errors']:>8}"
        print(f"{name:24}{row['requests_per_second']:>12.1f}{numbers}")
    print(f"versions that answered while one was published: {record['published_under_load']['versions']}")
    index = record["approximate"]
    print(
        f"{index['items']:,} items: index made in {index['seconds_to_make']:.0f} s, recall@100 "
        f"{index['recall_at_100']:.3f}; median {index['approximate_ms']:.1f} ms, exact {index['exact_ms']:.1f} ms"
    )
    print("Oryx 2's own figures for 1M items on 32 cores, requests/s: rank 50 70 (LSH 437), rank 250 24 (LSH 160)")
    line = {
        "requests_per_second": round(record["recommend"]["requests_per_second"], 1),
        "recommend_p99_ms": round(record["recommend"]["p99_ms"], 2),
        "fold_in_p99_ms": round(record["fold_in"]["p99_ms"], 2),
        "errors": sum(record[name]["errors"] for name in loads),
        "ann_recall_at_100": round(index["recall_at_100"], 4),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
