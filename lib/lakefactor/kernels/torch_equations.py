"""The equations of a chunk of rows as batched tensors, in float32 and in lower precision.

Names as in `_panel`: Y source factors, G = a0 Y'Y, P a row's *panel* (its entries' source rows, each scaled by
sqrt(w)), M = G + P'P + diag(reg), b the right-hand side. B rows, padded to L entries each; k columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lakefactor.kernels.backends import Precision
from lakefactor.kernels.torch_layout import Bucket, segments_of


@dataclass(frozen=True)
class Source:
    """The fixed side: design rows, the biases that leave the targets, G.

    Attributes
    ----------
    design : float32 Tensor, shape (m, k)
        [y_0 .. y_{k-2}, 1] where the model is biased, else y.
    bias : float32 Tensor, shape (m,), or None
    gramian : float32 Tensor, shape (k, k)
    """

    design: Tensor
    bias: Tensor | None
    gramian: Tensor


@dataclass(frozen=True)
class Equations:
    """M and b of B rows.

    Attributes
    ----------
    base : float32 Tensor, shape (k, k) or (B, k, k)
        G, or all of M but its regularization where ``panel`` is empty.
    panel : float32 or bfloat16 Tensor, shape (B, L, k)
    reg, rhs : float32 Tensor, shape (B, k)
    constant : float64 Tensor, shape (B,)
        sum_e w b_y^2 - 2 t b_y; 0 without biases.
    precision : {"float32", "tf32", "bfloat16"}
        Of the products with the panel. They are summed in float32 always.
    """

    base: Tensor
    panel: Tensor
    reg: Tensor
    rhs: Tensor
    constant: Tensor
    precision: Precision = "float32"

    def lowered(self, precision: Precision) -> Equations:
        """Return the same equations with P, and all that it is multiplied with, rounded to a precision."""
        if precision == "float32" or self.panel.shape[1] == 0:
            return self
        panel = self.panel.to(torch.bfloat16) if precision == "bfloat16" else self.panel
        return replace(self, panel=panel, precision=precision)

    def product(self, p: Tensor) -> Tensor:
        """Return M p for a p of each row, shape (B, k)."""
        own = p @ self.base if self.base.ndim == 2 else torch.bmm(self.base, p.unsqueeze(2)).squeeze(2)
        inner = batched(self.panel, p.unsqueeze(2), self.precision).squeeze(2)
        return own.addcmul_(self.reg, p).add_(weighted_sum(inner, self.panel, self.precision))

    def block(self, start: int, stop: int) -> Tensor:
        """Return the rows and columns [start, stop) of M, shape (B, stop - start, stop - start)."""
        result = gram(self.panel[:, :, start:stop], self.precision)
        result += self.base[..., start:stop, start:stop]
        result.diagonal(dim1=1, dim2=2).add_(self.reg[:, start:stop])
        return result


def gather(source: Source, rows: Bucket, reg: Tensor) -> Equations:
    """Return the equations of some rows whose entries fit into memory together."""
    shape = (*rows.indices.shape, source.design.shape[1])
    panel = source.design.index_select(0, rows.indices.reshape(-1)).view(shape)
    targets = rows.targets
    constant = torch.zeros(shape[0], dtype=torch.float64, device=panel.device)
    if source.bias is not None:
        bias = source.bias[rows.indices]
        constant = (bias.double() * (rows.weights * bias - 2 * targets)).sum(1)
        targets = targets - rows.weights * bias
    rhs = weighted_sum(targets, panel)
    panel *= rows.weights.sqrt().unsqueeze(2)
    return Equations(source.gramian, panel, reg, rhs, constant)


def accumulate(source: Source, row: Bucket, reg: Tensor, segments_at_once: int) -> Equations:
    """Return the equations of one row whose entries do not fit: partial Gramians of its segments, summed in float32."""
    cut = row.segments()
    parts = (
        gather(source, cut.some(start, start + segments_at_once), reg)
        for start in range(0, len(cut.rows), segments_at_once)
    )
    base, rhs = source.gramian.unsqueeze(0).clone(), torch.zeros_like(reg)
    constant = torch.zeros(1, dtype=torch.float64, device=base.device)
    for part in parts:
        base += gram(part.panel).sum(0)
        rhs += part.rhs.sum(0)
        constant += part.constant.sum()
    return Equations(base, source.design.new_empty((1, 0, base.shape[1])), reg, rhs, constant)


def gram(panel: Tensor, precision: Precision = "float32") -> Tensor:
    """Return P'P of each row, shape (B, k, k), as the sum over its segments."""
    rows, length, k = panel.shape
    segments = segments_of(length)
    cut = panel.unflatten(1, (segments, length // segments)).flatten(0, 1)
    products = batched(cut.transpose(1, 2), cut, precision)
    return products if segments == 1 else products.view(rows, segments, k, k).sum(1)


def weighted_sum(factors: Tensor, panel: Tensor, precision: Precision = "float32") -> Tensor:
    """Return sum_l f_l p_l of each row, shape (B, k), as the sum over its segments."""
    rows, length, k = panel.shape
    segments = segments_of(length)
    cut = panel.unflatten(1, (segments, length // segments)).flatten(0, 1)
    sums = batched(factors.reshape(rows * segments, 1, length // segments), cut, precision)
    return sums.view(rows, k) if segments == 1 else sums.view(rows, segments, k).sum(1)


def batched(a: Tensor, b: Tensor, precision: Precision = "float32") -> Tensor:
    """Return the products of two stacks of matrices, rounded to ``precision`` before and summed in float32."""
    if precision == "tf32":
        with matrix_units("tf32", a.device):
            return torch.bmm(a, b)
    if precision == "bfloat16":
        a, b = a.to(torch.bfloat16), b.to(torch.bfloat16)
        if a.device.type == "cuda":
            return torch.bmm(a, b, out_dtype=torch.float32)
        return torch.bmm(a.float(), b.float())  # other devices would round the sums as well
    return torch.bmm(a, b)


@contextmanager
def matrix_units(kind: str, device: torch.device) -> Iterator[None]:
    """Let CUDA multiply float32 matrices exactly (``ieee``) or rounded to TF32 (``tf32``) for a while.

    The switch is the process's; elsewhere than on CUDA there is none, and ``tf32`` is float32.
    """
    if device.type != "cuda":
        yield
        return
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    switch.fp32_precision = kind
    try:
        yield
    finally:
        switch.fp32_precision = before
