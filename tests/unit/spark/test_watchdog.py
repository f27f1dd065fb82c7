"""The watchdog against real sockets: who is blamed, and for what; judgements on time are asked with made-up times."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from lakefactor.spark.progress import Address, Watched, beacon
from lakefactor.spark.watchdog import Rank, Watchdog

WAIT = 20
"""Seconds until a test gives up on what must happen."""


@pytest.fixture(autouse=True)
def outlive_our_parent(monkeypatch):
    """These tests play ranks; the process of the tests must not die with the one that started it, as ranks do."""
    monkeypatch.setattr("lakefactor.spark.progress.die_with_parent", lambda: None)


class Watch:
    """A watchdog with everything that it said; entered by tests."""

    def __init__(self, ranks: int, timeout: float = 3600.0, on_event=None) -> None:
        self.stuck = threading.Event()
        self.events: list[dict] = []
        self.heard = threading.Condition()
        self.dog = Watchdog("127.0.0.1", ranks, timeout, on_event or self._take, self.stuck.set)

    def _take(self, event: dict) -> None:
        with self.heard:
            self.events.append(event)
            self.heard.notify_all()

    def wait_for(self, count: int) -> list[dict]:
        """Return the events, when there are ``count`` of them."""
        with self.heard:
            assert self.heard.wait_for(lambda: len(self.events) >= count, WAIT), self.events
            return list(self.events)


def test_a_rank_that_leaves_properly_is_nobodys_fault():
    watch = Watch(1)
    with watch.dog as address, beacon(address, 0) as line:
        line.report(kind="note", text="hello")
        with line.phase("iteration", 3):
            assert line.doing == "iteration 3"
        events = watch.wait_for(3)
    assert events[0] == {"proc_rank": 0, "phase": "start", "host": socket.gethostname(), "pid": os.getpid()}
    assert events[1] == {"proc_rank": 0, "kind": "note", "text": "hello"}
    assert watch.dog.verdict is None
    assert not watch.stuck.is_set()
    assert events[2]["proc_rank"] == 0
    timing = events[2]["timing"]
    assert (timing["phase"], timing["iteration"]) == ("iteration", 3)
    assert timing["seconds"] >= 0
    assert timing["peak_memory_bytes"] > 1 << 20


def test_a_killed_process_is_named_with_its_phase_and_the_attempt_is_ended(monkeypatch):
    monkeypatch.setattr("lakefactor.spark.watchdog.LOST_SECONDS", 0.0)
    code = """
import sys, time
from lakefactor.spark.progress import Address, beacon
with beacon(Address(sys.argv[1], int(sys.argv[2]), sys.argv[3]), 1) as line:
    line.enter("iteration 7")
    line.report(ready=True)
    time.sleep(600)
"""
    watch = Watch(2)
    with watch.dog as address:
        arguments = [address.host, str(address.port), address.token]
        rank = subprocess.Popen([sys.executable, "-c", code, *arguments])
        try:
            watch.wait_for(2)
            rank.send_signal(signal.SIGKILL)
            verdict = watch.dog.explain(WAIT)
            assert watch.stuck.wait(WAIT)
        finally:
            rank.kill()
            rank.wait()
    assert verdict == (
        f"rank 1 (process {rank.pid} on {socket.gethostname()}, in phase 'iteration 7') of 2 died: "
        "it was killed, or ran out of memory"
    )


def test_a_failing_rank_says_so_and_is_not_called_lost():
    watch = Watch(1)

    def fail():
        with watch.dog as address, beacon(address, 0) as line:
            line.report(ready=True)
            watch.wait_for(2)
            raise ValueError("own fault")

    with pytest.raises(ValueError, match="own fault"):
        fail()
    assert watch.dog.verdict is None


@pytest.mark.parametrize(
    "sent",
    [
        b'{"token": "guessed", "proc_rank": 0, "host": "h", "pid": 1}\n',
        b'{"proc_rank": 0}\n',
        b"GET / HTTP/1.1\r\n",
        b"[1, 2]\n",
        b"\xff\xfe\n",
        b"x" * 5000,
    ],
    ids=["wrong token", "no token", "http", "no object", "no text", "endless"],
)
def test_strangers_are_cut_off_and_change_nothing(sent):
    watch = Watch(1)
    with watch.dog as address, socket.create_connection((address.host, address.port), timeout=WAIT) as stranger:
        stranger.sendall(sent)
        with suppress(ConnectionResetError):  # where the watchdog has not read all
            assert stranger.recv(1) == b""
        with beacon(address, 0) as line:
            line.report(ready=True)
            events = watch.wait_for(2)
    assert [event["proc_rank"] for event in events] == [0, 0]
    assert watch.dog.verdict is None


def test_an_onlooker_that_fails_does_not_end_the_watch():
    def fail(event):
        watch._take(event)
        raise RuntimeError("no screen")

    watch = Watch(1, on_event=fail)
    with watch.dog as address, beacon(address, 0) as line:
        line.timed("build", 1.5)
        assert watch.wait_for(1)[0]["phase"] == "start"
    assert watch.dog.verdict is None


def test_the_end_of_the_watch_ends_a_rank():
    """A rank that is stuck learns by the end of its connection that the attempt is over."""
    ended, watch = threading.Event(), Watch(1)
    with beacon(watch.dog.__enter__(), 0, on_lost=ended.set) as line:
        line.report(ready=True)
        watch.wait_for(2)
        watch.dog.__exit__(RuntimeError, None, None)
        assert ended.wait(WAIT)


def test_a_driver_out_of_reach_does_not_stop_the_training():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with beacon(Address("127.0.0.1", port, "token"), 0) as line:
        line.report(ready=True)
        with line.phase("build"):
            pass


def test_waiting_for_peers_is_counted_and_shown():
    class Comm:
        size = 2

        def exchange(self):
            return line._beat()

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with beacon(Address("127.0.0.1", port, ""), 0) as line:
        comm = Watched(Comm(), line)
        assert comm.size == 2
        phase, step, waiting = comm.exchange()
        assert (phase, step) == ("start", 1)
        assert waiting >= 0
        assert line._beat()[1:] == [1, -1.0]
        assert line.waited >= 0


def judge(ranks: int, known: list[Rank], now: float = 1000.0) -> str | None:
    """Return the verdict at time ``now`` of a watchdog with a limit of 48 s."""
    dog = Watchdog("127.0.0.1", ranks, 60.0, lambda event: None, lambda: None)
    dog._known = {rank.proc_rank: rank for rank in known}
    return dog._lost() or dog._guilty(now)


def rank(number: int, *, heard: float = 1000.0, since: float = 0.0, **known) -> Rank:
    return Rank(number, "host", 100 + number, since, heard, phase="iteration 2", **known)


def test_nobody_is_blamed_while_all_goes_well():
    assert judge(2, [rank(0, step=5, waiting=47.0), rank(1, step=4, heard=953.0)]) is None
    assert judge(2, []) is None


def test_a_silent_rank_is_blamed_though_others_wait():
    verdict = judge(2, [rank(0, step=5, waiting=60.0), rank(1, step=4, heard=940.0)])
    assert verdict == (
        "rank 1 (process 101 on host, in phase 'iteration 2') of 2 gave no sign of life for 60 s: "
        "it or its machine stopped"
    )


def test_the_rank_that_others_wait_for_is_behind():
    verdict = judge(3, [rank(0, step=5, waiting=50.0), rank(1, step=4), rank(2, step=5, waiting=49.0)])
    assert verdict == (
        "rank 1 (process 101 on host, in phase 'iteration 2') of 3 is behind: rank 0 has waited 50 s for it"
    )


def test_when_all_wait_in_the_same_exchange_it_is_the_network():
    verdict = judge(2, [rank(0, step=5, waiting=50.0), rank(1, step=5, waiting=49.0)])
    assert verdict == "all 2 ranks have waited for each other for 50 s: their network fails"


def test_a_rank_that_never_came_is_missed():
    assert judge(3, [rank(0, since=940.0), rank(2, since=960.0)]) == (
        "rank 1 of 3 is not there, 60 s after the first of its peers"
    )


def test_an_error_that_a_rank_told_is_waited_for():
    assert judge(2, [rank(0, step=5, waiting=50.0), rank(1, step=4, gone=990.0, farewell="SolveError: ...")]) is None


def test_the_first_of_several_lost_ranks_is_blamed():
    verdict = judge(3, [rank(0, gone=990.0), rank(1, gone=980.0), rank(2, gone=970.0, farewell="lost its peer")])
    assert verdict is not None
    assert verdict.startswith("rank 1 (")
