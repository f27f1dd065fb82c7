from __future__ import annotations

import pytest

from lakefactor.spark.memory import free_bytes


@pytest.mark.parametrize(
    ("machine", "limit", "used", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable:       7 kB\n", None, None, 7 * 1024),
        ("MemTotal: 9 kB\nMemAvailable:       7 kB\n", "max", "5000", 7 * 1024),
        ("MemTotal: 9 kB\nMemAvailable:       7 kB\n", "8000", "5000", 3000),
        ("MemTotal: 9 kB\nMemAvailable:       2 kB\n", "8000", "5000", 2048),
        (None, "8000", "9000", 0),
        (None, None, None, None),
    ],
)
def test_the_machine_s_or_the_container_s_whichever_is_less(tmp_path, machine, limit, used, expected):
    for name, text in (("meminfo", machine), ("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert free_bytes(tmp_path / "meminfo", tmp_path) == expected
