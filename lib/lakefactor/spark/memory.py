"""How much memory the driver's machine, or its container, has left."""

from __future__ import annotations

from pathlib import Path

MACHINE, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free_bytes(machine: Path = MACHINE, container: Path = CONTAINER) -> int | None:
    """Return how many bytes may still be used: the machine's, or the container's where these are fewer.

    None where the system does not tell: it is not Linux.
    """
    found = [_of_machine(machine), _of_container(container)]
    return min((free for free in found if free is not None), default=None)


def _of_machine(file: Path) -> int | None:
    lines = file.read_text().splitlines() if file.exists() else []
    available = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(available[0]) * 1024 if available else None


def _of_container(folder: Path) -> int | None:
    """Return what is left of the limit of cgroup v2; None where there is none."""
    limit, used = folder / "memory.max", folder / "memory.current"
    if not (limit.exists() and used.exists()) or limit.read_text().strip() == "max":
        return None
    return max(0, int(limit.read_text()) - int(used.read_text()))
