"""The conformance kit on CUDA, in the tolerances of `lakefactor.testing.conformance` (TF32 is rounded there only)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lakefactor.kernels import Ranker
from lakefactor.testing.conformance import CHECKS, combinations

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch finds no CUDA device: the torch backend is tested on the CPU only"
    ),
]


@pytest.mark.parametrize("combination", combinations("torch", "cuda:0"), ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_torch_on_cuda(check, combination):
    check(combination)


@pytest.mark.parametrize("cosine", [False, True])
def test_lists_made_on_cuda_are_those_of_the_cpu(cosine):
    random = np.random.default_rng(0)
    users, items = (random.normal(size=(n, 64)).astype(np.float32) for n in (300, 20_000))
    bias, own = random.normal(size=len(items)).astype(np.float32), random.normal(size=len(users))
    seen = np.arange(len(users) + 1) * 3, random.integers(len(items), size=(len(users), 3)).astype(np.int32)
    seen[1].sort(axis=1)
    one, two = (
        Ranker(items, bias, cosine=cosine, device=device).top(users, 50, (seen[0], seen[1].ravel()), bias=own)
        for device in ("cpu", "cuda:0")
    )
    np.testing.assert_array_equal(one[1], two[1])
    np.testing.assert_array_equal(one[0], two[0])
