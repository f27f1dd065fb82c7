"""Configuration: frozen sections with the only defaults, and how they are read from TOML and ``--set``.

Depends on errors alone; must not import Spark, torch or tables.
"""

from __future__ import annotations

from lakefactor.config.loading import load
from lakefactor.config.record import canonical_json, digest, recorded
from lakefactor.config.sections import (
    Config,
    Evaluate,
    Ingest,
    Interactions,
    Model,
    Publish,
    Recommend,
    Section,
    Sgd,
    Spark,
    Stream,
    Synthetic,
    Tables,
    Train,
)

__all__ = [
    "Config",
    "Evaluate",
    "Ingest",
    "Interactions",
    "Model",
    "Publish",
    "Recommend",
    "Section",
    "Sgd",
    "Spark",
    "Stream",
    "Synthetic",
    "Tables",
    "Train",
    "canonical_json",
    "digest",
    "load",
    "recorded",
]
