"""What a benchmark's figures depend on, for its raw results."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info


def machine(libraries: Sequence[str]) -> dict[str, Any]:
    """Return processor, cores, load, BLAS and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    blas = [
        f"{lib['internal_api']} {lib['version']} {lib['architecture']}"
        for lib in threadpool_info()
        if "architecture" in lib
    ]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "blas": sorted(set(blas)),
        "libraries": {name: version(name) for name in libraries},
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def measured(machine: dict[str, Any], more: str = "") -> str:
    """Return when and on what something was measured, as a sentence."""
    load = f"{machine['load_average'][0]:.1f} before and {machine['load_average_after'][0]:.1f} after"
    return f"Measured {machine['at']} on {machine['cpu']}, {machine['cores']} cores{more}, load average {load}."
