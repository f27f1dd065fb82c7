"""Stochastic gradient descent on one rank's shard, for losses that no half-step solves.

An epoch visits every entry once, in steps of about ``sgd.batch_entries`` entries of all ranks together. In a step each
rank draws items that the user has not (the losses of observed pairs), fetches the item rows that its samples need from
their owners, and computes the gradients; users are updated where they are, the item gradients are summed at the items'
owners and applied once. So every row, and the optimizer's state with it, lives at one rank, and W ranks do what one
would: a synchronous step with the same samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lakefactor.comm import Communicator, sum_over_ranks
from lakefactor.config import Model, Train
from lakefactor.config import Sgd as SgdConfig
from lakefactor.errors import SolveError
from lakefactor.factorization.distant_rows import DistantRows, sum_groups
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.fitting import State, Totals
from lakefactor.factorization.losses import LOSSES
from lakefactor.factorization.optimizers import initial_state, update
from lakefactor.factorization.sampling import Sampler
from lakefactor.factorization.shard import Shard
from lakefactor.kernels import effective_reg, hash_ids, initial_factors
from lakefactor.types import SIDES, Side

MEASURED_EPOCH = 0
"""Number of the epoch whose samples the objective uses; those that train are 1, 2, ..."""


class Sgd:
    """Factors and biases by stochastic gradients (`Algorithm` of `fitting`); an iteration is an epoch.

    Minimises, with scores p_ui = mean + b_u + b_i + x_u'y_i and the loss of an entry as in `losses`::

        sum_entries loss + sum_r lambda_r |x_r|^2 (a row's bias with its own lambda)

    Parameters
    ----------
    shard : Shard
    comm : Communicator
    model, train : Model, Train
        ``rank``, ``seed``, ``strength``, ``alpha`` (weights of `logistic` and `bpr`), the regularization, and
        ``threads_per_rank`` are used.
    config : SgdConfig
    totals : Totals
    device : str
        Where the tensors live, as torch names it.

    Notes
    -----
    *Scale.* The gradient of a step is the sum over its samples, so ``learning_rate`` means what it does where samples
    come one at a time. lambda_r is `effective_reg` of the samples that a row takes part in during an epoch: its
    entries, and for items also ``negatives * entries / items``, how often each is drawn on average. Every sample brings
    lambda_r / samples_r of the penalty. So with ``reg_exponent = 1`` each sample shrinks its rows by reg, as LearnBPR
    (Rendle et al., UAI 2009, figure 4; its lambda is 2 reg) does; and with `squared` the objective is that of
    ``explicit_als``, whatever the exponent.

    *Any number of ranks.* Which step an entry belongs to and which items are drawn for it are functions of (seed,
    epoch, user id, item id), uniform over all items; a drawn item that the user has is skipped. So the number of ranks
    changes only the order of additions. What that does to the factors grows with the steps: objectives agree to about
    1e-5 after some epochs, not bit for bit. The same W gives the same bits.

    *Objective.* Taken after the epoch over all entries, with a sample of negatives that is the same after every epoch.

    *Memory.* 20 bytes for each entry of the rank, and 24 more while an epoch is dealt into steps; 8 bytes for each item
    of all ranks; the rows of a step.

    *Bias.* The last column of a row of ``state`` is its bias. `bpr` compares items of one user, so b_u stays 0.
    """

    def __init__(
        self,
        shard: Shard,
        comm: Communicator,
        model: Model,
        train: Train,
        config: SgdConfig,
        totals: Totals,
        device: str = "cpu",
    ) -> None:
        torch.set_num_threads(train.threads_per_rank)
        self._comm, self._config, self._device = comm, config, torch.device(device)
        rated = config.loss == "squared"
        negatives = 0 if rated else config.negatives
        self._sampler = Sampler(comm, shard, negatives, model.seed, self._device)
        self._n_steps = -(-totals.entries // config.batch_entries)
        self.mean = totals.mean_strength if rated else 0.0
        if not rated:
            Equation(model).check(totals.min_strength)
        strengths = shard.rows["user"].strengths[self._sampler.order.numpy()]
        self._targets = self._tensor(strengths - np.float32(self.mean))
        self._weights = self._tensor(np.ones_like(strengths) if rated else Equation(model).weights(strengths))
        drawn = {"user": 0.0, "item": negatives * totals.entries / totals.items}
        samples = {side: shard.rows[side].n_entries + drawn[side] for side in SIDES}
        bases = {"user": model.user_reg, "item": model.item_reg}
        # Columns: lambda of the factors, lambda of the bias.
        self._reg = {
            side: np.column_stack(
                [effective_reg(n, base, model.reg_exponent) for base in (bases[side], model.bias_reg)]
            )
            for side, n in samples.items()
        }
        self._reg_share = {
            side: self._tensor((self._reg[side] / n[:, None]).astype(np.float32)) for side, n in samples.items()
        }
        self.state: State = {side: self._initial(shard, side, model) for side in SIDES}
        self.state["user"]["epochs"] = np.zeros(len(shard.rows["user"].ids), np.int64)

    @torch.no_grad()
    def iterate(self) -> float:
        """Run one epoch; return the objective.

        Raises
        ------
        SolveError
            The objective is not finite; every rank raises it.
        """
        epochs = self.state["user"]["epochs"]
        epochs[:] = epoch = int(epochs.max(initial=0)) + 1
        tensors = {
            side: {name: self._tensor(array) for name, array in self.state[side].items() if name != "epochs"}
            for side in SIDES
        }
        for entries in self._sampler.steps(epoch, self._n_steps):
            self._descend(tensors, self._forward(tensors, entries, epoch))
        total = 0.0
        for entries in self._sampler.chunks(self._n_steps):
            total += float(self._forward(tensors, entries, MEASURED_EPOCH).losses.sum(dtype=torch.float64))
        for side in SIDES:
            for name, tensor in tensors[side].items():
                self.state[side][name][:] = tensor.cpu().numpy()
            squares = np.square(self.state[side]["factors"], dtype=np.float64)
            total += float(squares[:, :-1].sum(1) @ self._reg[side][:, 0] + squares[:, -1] @ self._reg[side][:, 1])
        objective = sum_over_ranks(self._comm, total)
        if not np.isfinite(objective):
            raise SolveError(
                [],
                f"the objective of epoch {epoch} is not finite; lower sgd.learning_rate (now "
                f"{self._config.learning_rate}), or bound gradients by sgd.clip_norm (now {self._config.clip_norm})",
            )
        return objective

    def factors(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's factor rows without the bias column."""
        return self.state[side]["factors"][:, :-1]

    def bias(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's biases."""
        return self.state[side]["factors"][:, -1]

    def _tensor(self, array: NDArray) -> Tensor:
        """Return an array on the device; on the CPU it is the same memory."""
        return torch.from_numpy(array).to(self._device)

    def _initial(self, shard: Shard, side: Side, model: Model) -> dict[str, NDArray]:
        factors = initial_factors(hash_ids(shard.rows[side].ids), model.seed, model.rank + 1, side)
        factors[:, -1] = 0
        state = initial_state(self._config.optimizer, *factors.shape)
        return {"factors": factors, **{name: array.numpy() for name, array in state.items()}}

    def _forward(self, tensors: _Tensors, entries: Tensor, epoch: int) -> _Step:
        """Score the samples of some entries."""
        users, items, used = self._sampler.sample(entries, epoch)
        user_rows, user_of, user_sizes = torch.unique_consecutive(users, return_inverse=True, return_counts=True)
        in_order, item_order = torch.sort(items.flatten(), stable=True)
        item_rows, place, item_sizes = torch.unique_consecutive(in_order, return_inverse=True, return_counts=True)
        item_of = torch.empty_like(item_order)
        item_of[item_order] = place
        rows = DistantRows(self._comm, self._sampler.starts, item_rows)
        x, y = tensors["user"]["factors"].index_select(0, user_rows), rows.fetch(tensors["item"]["factors"])
        # x'y + b_u + b_i as one product and the item's bias: y with 1 in the place of its bias.
        item_design = _with_one(y)
        design = item_design.index_select(0, item_of).view(*items.shape, y.shape[1])
        scores = torch.bmm(design, x.index_select(0, user_of)[:, :, None])[:, :, 0]
        scores += y[item_of, -1].view(items.shape)
        losses, positive, negative = LOSSES[self._config.loss](
            scores[:, 0], scores[:, 1:], used, self._weights[entries], self._targets[entries]
        )
        slopes = torch.cat([positive[:, None], negative], 1)
        touched = torch.cat([torch.ones_like(positive)[:, None], used], 1)
        return _Step(
            user_rows,
            user_of,
            user_sizes,
            rows,
            item_of,
            item_order,
            item_sizes,
            x,
            item_design,
            losses,
            slopes,
            touched,
        )

    def _descend(self, tensors: _Tensors, step: _Step) -> None:
        """Update the users of a step here, and its items at their owners."""
        samples = step.slopes.shape[1]
        by_user = sum_groups(step.item_design, step.item_of, step.user_sizes * samples, step.slopes.flatten())
        if self._config.loss in ("bpr", "softmax"):
            by_user[:, -1] = 0  # exactly: adaptive rules would blow rounding errors up
        user_of = step.user_of.repeat_interleave(samples)[step.item_order]
        slopes, touched = (array.flatten()[step.item_order] for array in (step.slopes, step.touched))
        by_item = torch.cat(
            [
                sum_groups(_with_one(step.x), user_of, step.item_sizes, slopes),
                sum_groups(touched[:, None], torch.arange(len(touched), device=self._device), step.item_sizes),
            ],
            1,
        )
        self._update(tensors["user"], "user", step.user_rows, by_user, step.user_sizes.float())
        item_rows, sums = step.rows.sum_at_owners(by_item)
        self._update(tensors["item"], "item", item_rows, sums[:, :-1], sums[:, -1])

    def _update(self, own: dict[str, Tensor], side: Side, rows: Tensor, gradient: Tensor, samples: Tensor) -> None:
        """Apply the rule to some rows; ``samples`` says how many of the step's samples each row took part in."""
        state = {name: array.index_select(0, rows) for name, array in own.items()}
        factors = state.pop("factors")
        share = 2 * samples[:, None] * self._reg_share[side].index_select(0, rows)
        pull = torch.cat([share[:, :1] * factors[:, :-1], share[:, 1:] * factors[:, -1:]], 1)
        factors, state = update(self._config, factors, gradient + pull, state)
        for name, array in {"factors": factors, **state}.items():
            own[name][rows] = array


_Tensors = dict[Side, dict[str, Tensor]]


class _Step(NamedTuple):
    """Samples of some entries, scored; distinct rows are gathered once.

    Attributes
    ----------
    user_rows, user_of, user_sizes : int64 Tensor
        Own rows of the users, which of them each entry has, entries of each.
    rows : DistantRows
        The items.
    item_of, item_order, item_sizes : int64 Tensor
        Which of the items each sample has, the samples in order of items, samples of each.
    x : float32 Tensor
        Users' factors and bias.
    item_design : float32 Tensor
        Items' factors, and 1.
    losses : float32 Tensor, shape (b,)
    slopes : float32 Tensor, shape (b, 1 + negatives)
        Derivative of the loss by each score.
    touched : float32 Tensor, shape (b, 1 + negatives)
        Whether a sample counts.
    """

    user_rows: Tensor
    user_of: Tensor
    user_sizes: Tensor
    rows: DistantRows
    item_of: Tensor
    item_order: Tensor
    item_sizes: Tensor
    x: Tensor
    item_design: Tensor
    losses: Tensor
    slopes: Tensor
    touched: Tensor


def _with_one(rows: Tensor) -> Tensor:
    """Return rows with 1 in the place of the bias."""
    design = rows.clone()
    design[:, -1] = 1
    return design
