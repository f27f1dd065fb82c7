"""Update rules: the numbers of torch.optim step by step, on all rows and on some."""

from __future__ import annotations

import pytest
import torch

from lakefactor.config import Sgd
from lakefactor.factorization.optimizers import RULES, clipped, initial_state, update

RATE, MOMENTUM, DECAY = 0.05, 0.8, 0.95
PEERS = {
    "sgd": lambda rows: torch.optim.SGD(rows, lr=RATE),
    "momentum": lambda rows: torch.optim.SGD(rows, lr=RATE, momentum=MOMENTUM),
    "adagrad": lambda rows: torch.optim.Adagrad(rows, lr=RATE),
    "rmsprop": lambda rows: torch.optim.RMSprop(rows, lr=RATE, alpha=DECAY),
    "adam": lambda rows: torch.optim.Adam(rows, lr=RATE, betas=(MOMENTUM, DECAY)),
}
STEPS, N, COLUMNS = 12, 5, 3


def config(optimizer, clip_norm=0.0):
    return Sgd(optimizer=optimizer, learning_rate=RATE, momentum=MOMENTUM, decay=DECAY, clip_norm=clip_norm)


def gradients(seed=3):
    random = torch.Generator().manual_seed(seed)
    # Lengths from 1e-3 to 1e3: epsilons and bias corrections all show.
    return torch.randn(STEPS, N, COLUMNS, generator=random) * 10.0 ** torch.linspace(-3, 3, STEPS)[:, None, None]


@pytest.mark.parametrize("optimizer", RULES)
def test_every_step_is_torch_optims(optimizer):
    rows, state = torch.ones(N, COLUMNS), initial_state(optimizer, N, COLUMNS)
    peer_rows = torch.ones(N, COLUMNS, requires_grad=True)
    peer = PEERS[optimizer]([peer_rows])
    for gradient in gradients():
        rows, state = update(config(optimizer), rows, gradient, state)
        peer_rows.grad = gradient.clone()
        peer.step()
        torch.testing.assert_close(rows, peer_rows.detach(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", RULES)
def test_a_row_is_its_own_optimizer(optimizer):
    """Rows that are updated at some steps only: each is torch.optim on that row's own steps."""
    random = torch.Generator().manual_seed(1)
    rows, state = torch.ones(N, COLUMNS), initial_state(optimizer, N, COLUMNS)
    peer_rows = [torch.ones(1, COLUMNS, requires_grad=True) for _ in range(N)]
    peers = [PEERS[optimizer]([row]) for row in peer_rows]
    for gradient in gradients():
        some = torch.nonzero(torch.rand(N, generator=random) < 0.5)[:, 0]
        updated, part = update(config(optimizer), rows[some], gradient[some], {k: v[some] for k, v in state.items()})
        rows[some] = updated
        for name, array in part.items():
            state[name][some] = array
        for number in some.tolist():
            peer_rows[number].grad = gradient[number : number + 1].clone()
            peers[number].step()
    torch.testing.assert_close(rows, torch.cat(peer_rows).detach(), rtol=2e-5, atol=1e-6)


def test_adam_of_all_rows_is_sparse_adam():
    rows, state = torch.ones(N, COLUMNS), initial_state("adam", N, COLUMNS)
    peer_rows = torch.ones(N, COLUMNS, requires_grad=True)
    peer = torch.optim.SparseAdam([peer_rows], lr=RATE, betas=(MOMENTUM, DECAY))
    every_row = torch.arange(N)[None]
    # It adds epsilon before the bias is corrected: the same for gradients that are long beside 1e-8.
    for gradient in gradients()[STEPS // 2 :]:
        rows, state = update(config("adam"), rows, gradient, state)
        peer_rows.grad = torch.sparse_coo_tensor(every_row, gradient, is_coalesced=True, check_invariants=True)
        peer.step()
    torch.testing.assert_close(rows, peer_rows.detach(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", RULES)
def test_nothing_is_changed_in_place(optimizer):
    """A replayed update starts from the stored rows and state, and gives the same bits."""
    first = gradients()[0]
    rows, state = update(config(optimizer), torch.ones(N, COLUMNS), first, initial_state(optimizer, N, COLUMNS))
    kept = rows.clone(), {name: array.clone() for name, array in state.items()}
    once = update(config(optimizer), rows, gradients()[1], state)
    again = update(config(optimizer), *[kept[0], gradients()[1]], kept[1])
    torch.testing.assert_close((rows, state), kept, rtol=0, atol=0)
    torch.testing.assert_close(once, again, rtol=0, atol=0)


def test_clipping_shortens_long_rows_only():
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [0.0, -1e15]])
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(clipped(gradient, 1.0), expected)
    torch.testing.assert_close(clipped(gradient, 0.0), gradient, rtol=0, atol=0)


def test_clipping_is_torchs_row_by_row():
    gradient = gradients()[-1]
    expected = torch.empty_like(gradient)
    for number, row in enumerate(gradient):
        parameter = torch.zeros(COLUMNS, requires_grad=True)
        parameter.grad = row.clone()
        torch.nn.utils.clip_grad_norm_([parameter], 2.0)
        expected[number] = parameter.grad
    torch.testing.assert_close(clipped(gradient, 2.0), expected, rtol=1e-6, atol=1e-6)
