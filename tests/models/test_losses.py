"""A loss belongs to one record, is zero for certain truth, and its probabilities are ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses import CROSS_ENTROPY, DICE, LOG, LOSSES, UnknownLoss, loss_for, loss_named
from models.networks import NETWORKS

CASES = [
    (LOG, (1,), ()),
    (LOG, (1, 4, 4), (4, 4)),
    (CROSS_ENTROPY, (3,), ()),
    (CROSS_ENTROPY, (3, 4, 4, 4), (4, 4, 4)),
    (DICE, (3, 4, 4, 4), (4, 4, 4)),
    (DICE, (1, 4, 4), (4, 4)),
]
IDS = [f"{loss.name}-{len(grid)}d-{outputs[0]}" for loss, outputs, grid in CASES]


def records(outputs, grid, count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    classes = max(2, outputs[0])
    return (
        3 * torch.randn(count, *outputs, generator=generator),
        torch.randint(0, classes, (count, *grid), generator=generator),
    )


@pytest.mark.parametrize(("loss", "outputs", "grid"), CASES, ids=IDS)
@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), kept=st.integers(1, 6))
def test_permuting_adding_or_removing_records_changes_no_others_loss(
    loss, outputs, grid, order, kept
):
    found, truth = records(outputs, grid)
    alone = torch.cat([loss(found[i : i + 1], truth[i : i + 1]) for i in range(6)])
    some = order[:kept]
    torch.testing.assert_close(loss(found[some], truth[some]), alone[some], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("loss", "outputs", "grid"), CASES, ids=IDS)
def test_a_records_loss_sends_no_gradient_to_another(loss, outputs, grid):
    found, truth = records(outputs, grid)
    found.requires_grad_()
    loss(found, truth)[2].backward()
    touched = found.grad.flatten(1).abs().sum(dim=1) > 0
    assert touched.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize(("loss", "outputs", "grid"), CASES, ids=IDS)
def test_a_loss_falls_to_zero_as_outputs_approach_certain_truth(loss, outputs, grid):
    _, truth = records(outputs, grid)
    sure = 50.0 * (2 * torch.nn.functional.one_hot(truth, max(2, outputs[0])) - 1).movedim(-1, 1)
    right = sure[:, -1:] if outputs[0] == 1 else sure
    assert (loss(right, truth) < 1e-3).all()
    assert (loss(-right, truth) > 1.0).all()


@pytest.mark.parametrize(("loss", "outputs", "grid"), CASES, ids=IDS)
def test_probabilities_are_in_their_range_and_sum_to_one_over_classes(loss, outputs, grid):
    found = loss.probabilities(records(outputs, grid)[0])
    assert ((found >= 0) & (found <= 1)).all()
    if outputs[0] > 1:
        torch.testing.assert_close(found.sum(dim=1), torch.ones_like(found[:, 0]))


def test_a_mask_without_foreground_has_a_finite_loss_and_gradient():
    found = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = DICE(found, torch.zeros(2, 4, 4, dtype=torch.int64))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(found.grad).all()


def test_every_network_has_a_loss_and_every_loss_its_name():
    assert {loss_for(name, outputs).name for name in NETWORKS for outputs in (1, 3)} == set(LOSSES)
    assert all(loss_named(name).name == name for name in LOSSES)


def test_an_unknown_loss_is_refused():
    with pytest.raises(UnknownLoss):
        loss_named("hinge")
