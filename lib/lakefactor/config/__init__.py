"""Configuration: frozen sections with the only defaults, and how they are read from TOML and ``--set``.

Depends on errors alone; must not import Spark, torch or tables.
"""

from __future__ import annotations

from lakefactor.config.data_sections import Ingest, Interactions, Items, Spark, Synthetic, Tables
from lakefactor.config.experiment_section import Experiment
from lakefactor.config.loading import changed, load
from lakefactor.config.model_sections import Model, Sgd, Train
from lakefactor.config.operation_sections import Evaluate, Explain, Forget, Maintain, Publish, Quality, Recommend
from lakefactor.config.record import HIDDEN, canonical_json, digest, recorded, without_secrets
from lakefactor.config.section import Section
from lakefactor.config.sections import Config
from lakefactor.config.serve_section import Serve
from lakefactor.config.stream_section import Stream
from lakefactor.config.tune_section import Tune

__all__ = [
    "HIDDEN",
    "Config",
    "Evaluate",
    "Experiment",
    "Explain",
    "Forget",
    "Ingest",
    "Interactions",
    "Items",
    "Maintain",
    "Model",
    "Publish",
    "Quality",
    "Recommend",
    "Section",
    "Serve",
    "Sgd",
    "Spark",
    "Stream",
    "Synthetic",
    "Tables",
    "Train",
    "Tune",
    "canonical_json",
    "changed",
    "digest",
    "load",
    "recorded",
    "without_secrets",
]
