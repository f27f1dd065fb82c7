"""Candidates of a ranking by products in float32, by torch on any of its devices."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lakefactor.kernels.topk import Ranked, Seen
from lakefactor.kernels.torch_half_step import find_device, matrix_units

BLOCK_SCORES = 1 << 26
"""Scores that are held at a time, 256 MiB of them."""


class TorchCandidates:
    """Finds the best items of users by x'y + b_y, as `BlockedCandidates`; items stay on the device.

    Parameters
    ----------
    items : float32 array, shape (m, k)
    bias : float32 array, shape (m,), or None
    device : str

    Raises
    ------
    SetupError
        torch has no such device here.
    """

    def __init__(self, items: NDArray[np.float32], bias: NDArray[np.float32] | None, device: str) -> None:
        self._device = find_device(device)
        self._items = self._on_device(items)
        self._bias = None if bias is None else self._on_device(bias.astype(np.float32))

    def __call__(
        self,
        users: NDArray[np.float32],
        n: int,
        seen: Seen,
        allowed: NDArray[np.bool_] | None,
        lengths: NDArray[np.float64],
        doubt: NDArray[np.float64],
    ) -> Ranked:
        """Return the n best columns of each user, best first, and their products; ties are in any order."""
        with torch.no_grad(), matrix_units("ieee", self._device):
            return self._best(users, n, seen, allowed)

    def _best(self, users: NDArray[np.float32], n: int, seen: Seen, allowed: NDArray[np.bool_] | None) -> Ranked:
        b, m = len(users), len(self._items)
        x = self._on_device(users)
        rows = self._on_device(np.repeat(np.arange(b), np.diff(seen[0])))
        columns = self._on_device(seen[1].astype(np.int64))
        denied = None if allowed is None else self._on_device(~allowed)
        best = torch.full((b, n), -torch.inf, device=self._device)
        places = torch.full((b, n), -1, dtype=torch.int64, device=self._device)
        step = max(1, BLOCK_SCORES // max(b, 1))
        for start in range(0, m, step):
            stop = min(start + step, m)
            scores = x @ self._items[start:stop].T
            if self._bias is not None:
                scores += self._bias[start:stop]
            if denied is not None:
                scores[:, denied[start:stop]] = -torch.inf
            inside = (columns >= start) & (columns < stop)
            scores[rows[inside], columns[inside] - start] = -torch.inf
            scores.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            held = torch.cat([best, scores], dim=1)
            best, found = held.topk(n, dim=1)
            new = torch.cat([places, torch.arange(start, stop, device=self._device).expand(b, -1)], dim=1)
            places = new.gather(1, found)
        places[best == -torch.inf] = -1
        return best.cpu().numpy(), places.cpu().numpy().astype(np.int32)

    def _on_device(self, array: NDArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
