"""Which samples an epoch consists of: functions of (seed, epoch, user id, item id), with no state, order or partition.

The generator is SplitMix64 (`kernels.hashing`) on tensors of int64, whose bits are taken as unsigned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lakefactor.comm import Communicator, all_gather, exchange_parts
from lakefactor.factorization.shard import Shard
from lakefactor.kernels import hash_ids


class Samples(NamedTuple):
    """The samples of some entries.

    Attributes
    ----------
    users : int64 Tensor, shape (b,)
        Own row numbers of users, ascending.
    items : int64 Tensor, shape (b, 1 + negatives)
        Global numbers (`distant_rows`) of the entry's item and of those drawn for it.
    used : float32 Tensor, shape (b, negatives)
        1, or 0 where the user has the drawn item, which is then skipped.
    """

    users: Tensor
    items: Tensor
    used: Tensor


class Sampler:
    """Deals a rank's entries into steps and draws items for them.

    Parameters
    ----------
    comm : Communicator
    shard : Shard
    negatives : int
        Items drawn for each entry, uniform over the items of all ranks.
    seed : int
    device : torch.device

    Attributes
    ----------
    starts : int64 ndarray, shape (W + 1,)
        First global number of each rank's items, and the number of all items.
    order : int64 Tensor, shape (nnz,)
        Which of the shard's user-side entries each entry here is: they are sorted by (user, global item number).
    """

    def __init__(self, comm: Communicator, shard: Shard, negatives: int, seed: int, device: torch.device) -> None:
        users, plan = shard.rows["user"], shard.plans["item"]
        hashes = hash_ids(shard.rows["item"].ids).view(np.int64)
        per_rank = all_gather(comm, np.array([len(hashes)], dtype=np.int64))[:, 0]
        self.starts = np.concatenate([[0], np.cumsum(per_rank)])
        self._n_items = int(self.starts[-1])
        own_numbers = self.starts[comm.proc_rank] + np.arange(len(hashes))
        numbers = torch.from_numpy(plan.fetch(comm, own_numbers))
        rows = torch.from_numpy(np.repeat(np.arange(len(users.ids)), users.n_entries))
        # A pair is user * items + item: one ascending array says both what the entries are and what a user has.
        pairs, self.order = torch.sort(rows * self._n_items + numbers[torch.from_numpy(users.indices).long()])
        item_hashes = torch.from_numpy(np.concatenate(exchange_parts(comm, [hashes] * comm.size)))
        user_hashes = torch.from_numpy(hash_ids(users.ids).view(np.int64))
        keys = _entry_keys(user_hashes[rows], item_hashes[pairs - rows * self._n_items])
        self._pairs, self._keys = pairs.to(device), keys.to(device)
        # Global numbers depend on W; the order of the hashes does not.
        self._by_hash = torch.argsort(item_hashes, stable=True).to(device)
        self._negatives, self._seed = negatives, seed

    def steps(self, epoch: int, n_steps: int) -> Iterator[Tensor]:
        """Deal the entries into steps; yield the numbers of each step's entries, ascending, maybe none."""
        step_of = _draw(self._keys, _stream(self._seed, epoch), 0, n_steps).int()  # half the sorting
        order = torch.argsort(step_of, stable=True)
        yield from torch.split(order, torch.bincount(step_of, minlength=n_steps).tolist())

    def chunks(self, n_chunks: int) -> Iterator[Tensor]:
        """Yield the numbers of all entries in order, in so many parts."""
        yield from torch.tensor_split(torch.arange(len(self._pairs), device=self._pairs.device), n_chunks)

    def sample(self, entries: Tensor, epoch: int) -> Samples:
        """Return the samples that some entries have in an epoch."""
        pairs = self._pairs[entries]
        users = torch.div(pairs, self._n_items, rounding_mode="floor")
        first = users * self._n_items
        columns = [pairs - first]
        used = torch.empty(len(entries), self._negatives, device=pairs.device)
        if len(entries):
            keys, stream = self._keys[entries], _stream(self._seed, epoch)
            for number in range(self._negatives):
                drawn = self._by_hash[_draw(keys, stream, number + 1, self._n_items)]
                found = torch.searchsorted(self._pairs, first + drawn).clamp_(max=len(self._pairs) - 1)
                used[:, number] = self._pairs[found] != first + drawn
                columns.append(drawn)
        else:
            columns *= 1 + self._negatives
        return Samples(users, torch.stack(columns, 1), used)


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def splitmix64(state: Tensor) -> Tensor:
    """Return the SplitMix64 output of each int64 state: the bits of `kernels.hashing.splitmix64`.

    Examples
    --------
    >>> hex(int(splitmix64(torch.tensor([0]))) % 2**64)
    '0xe220a8397b1dcdaf'
    """
    z = state + _GAMMA
    z = (z ^ _shift(z, 30)) * _MIX[0]
    z = (z ^ _shift(z, 27)) * _MIX[1]
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _entry_keys(users: Tensor, items: Tensor) -> Tensor:
    """Return a stable 64-bit number of each (user, item) pair from the hashes of its two ids."""
    return splitmix64(splitmix64(users) ^ items)


def _stream(seed: int, epoch: int) -> int:
    """Return the number that separates the draws of one epoch from those of every other."""
    return int(splitmix64(splitmix64(torch.tensor([_signed(seed % 2**64)])) + epoch))


def _draw(keys: Tensor, stream: int, number: int, n: int) -> Tensor:
    """Return the number-th draw of each key in a stream, int64, uniform in [0, n) but for a bias below n / 2^63."""
    return _shift(splitmix64(splitmix64(keys ^ stream) + number), 1) % n
