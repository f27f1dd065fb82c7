"""Read conf/spark/*.conf as spark-submit does, for tests of what they say."""

from __future__ import annotations

from pathlib import Path


def read_conf(*files: Path) -> dict[str, str]:
    """Return the settings of properties files laid over each other: of a key's several values the last one counts."""
    settings = {}
    for file in files:
        for line in file.read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                key, _, value = line.partition(" ")
                settings[key] = value.strip()
    return settings
