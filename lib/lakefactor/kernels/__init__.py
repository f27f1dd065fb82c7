"""Pure numerics: no Spark, no I/O, no clock, no environment.

Importing the package loads numpy only; numba, SciPy and pyarrow come with the first use of a name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# These two share their module's name, so they must be bound here, once, before anything imports the module.
from lakefactor.kernels.gramian import gramian
from lakefactor.kernels.half_step import half_step
from lakefactor.kernels.regularization import effective_reg
from lakefactor.kernels.system import Method, System

if TYPE_CHECKING:
    from lakefactor.kernels.csr import build_csr, transpose
    from lakefactor.kernels.hashing import hash_ids, splitmix64
    from lakefactor.kernels.initial import initial_factors
    from lakefactor.kernels.ranker import Ranker
    from lakefactor.kernels.reranking import rerank
    from lakefactor.kernels.sparse import SparseMatrix, sparse_product
    from lakefactor.kernels.topk import top_k

__all__ = [
    "Method",
    "Ranker",
    "SparseMatrix",
    "System",
    "build_csr",
    "effective_reg",
    "gramian",
    "half_step",
    "hash_ids",
    "initial_factors",
    "rerank",
    "sparse_product",
    "splitmix64",
    "top_k",
    "transpose",
]

_LAZY = {
    "build_csr": "csr",
    "transpose": "csr",
    "hash_ids": "hashing",
    "initial_factors": "initial",
    "rerank": "reranking",
    "Ranker": "ranker",
    "SparseMatrix": "sparse",
    "sparse_product": "sparse",
    "splitmix64": "hashing",
    "top_k": "topk",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
