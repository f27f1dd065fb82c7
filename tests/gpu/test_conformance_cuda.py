"""The conformance kit on CUDA, in the tolerances of `lakefactor.testing.conformance` (TF32 is rounded there only)."""

from __future__ import annotations

import pytest
import torch

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
