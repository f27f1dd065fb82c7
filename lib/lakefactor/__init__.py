"""Continuous matrix factorization on the lakehouse."""

__version__ = "0.1.0"
