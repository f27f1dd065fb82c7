"""Configuration: frozen sections with the only defaults, and how they are read from TOML and ``--set``.

Depends on errors alone; must not import Spark, torch or tables.
"""

from __future__ import annotations

from lakefactor.config.data_sections import Ingest, Interactions, Spark, Synthetic, Tables
from lakefactor.config.loading import load
from lakefactor.config.model_sections import Model, Sgd, Train
from lakefactor.config.operation_sections import Evaluate, Forget, Maintain, Publish, Recommend
from lakefactor.config.record import canonical_json, digest, recorded
from lakefactor.config.section import Section
from lakefactor.config.sections import Config
from lakefactor.config.stream_section import Stream

__all__ = [
    "Config",
    "Evaluate",
    "Forget",
    "Ingest",
    "Interactions",
    "Maintain",
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
