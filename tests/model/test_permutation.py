"""The nine orders: those of the reference, and that whatever is decoded in one comes back to its place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from object_centric_bench.model.permutation import NUM_ORDERS, PatchOrders, patch_orders, shift

sides = st.integers(1, 9)


@pytest.mark.parity
def test_equal_the_reference_on_every_grid(golden):
    with np.load(golden / "beyond" / "spot_permutations.npz") as known:
        assert len(known.files) == 8
        for name in known.files:
            height, width = map(int, name[1:].split("x"))
            np.testing.assert_array_equal(patch_orders(height, width), known[name], err_msg=name)


def test_orders_of_a_small_grid():
    """By hand: the paper's figure, on places 0 1 2 / 3 4 5 / 6 7 8."""
    expected = ["012345678", "036147258", "258147036", "210543876", "852741630", "876543210", "630741852", "678345012"]
    found = ["".join(map(str, order)) for order in patch_orders(3, 3).tolist()]
    assert found == [*expected, "410367852"]


@given(sides, sides)
def test_every_order_visits_every_place_once_and_no_two_are_alike(height, width):
    orders = patch_orders(height, width)
    assert orders.shape == (NUM_ORDERS, height * width)
    assert (orders.sort(dim=1).values == torch.arange(height * width)).all()
    if min(height, width) > 2:
        assert len(orders.unique(dim=0)) == NUM_ORDERS


@given(sides, sides, st.integers(0, NUM_ORDERS - 1))
def test_an_order_is_undone_exactly(height, width, index):
    orders = PatchOrders([height, width])
    tokens = torch.randn(2, height * width, 3)
    assert torch.equal(orders.restore(orders.arrange(tokens, index), index), tokens)
    assert torch.equal(orders.arrange(orders.restore(tokens, index), index), tokens)


@given(sides, sides)
def test_the_spiral_moves_by_one_place(height, width):
    order = patch_orders(height, width)[8]
    rows, columns = order // width, order % width
    assert ((rows.diff().abs() + columns.diff().abs()) == 1).all()
    assert order[-1] == width - 1  # the top right corner


def test_training_draws_all_orders_and_evaluation_takes_the_first():
    torch.manual_seed(0)
    orders = PatchOrders([3, 3])
    drawn = [orders.choose() for _ in range(200)]
    assert {index for (index,) in drawn} == set(range(NUM_ORDERS))
    assert orders.eval().choose() == [0]
    assert PatchOrders([3, 3], evaluate="all").eval().choose() == list(range(NUM_ORDERS))
    torch.manual_seed(0)
    assert drawn == [orders.train().choose() for _ in range(200)]


def test_decoding_returns_each_result_in_place_and_the_mean_over_all_orders():
    tokens = torch.randn(2, 6, 3)
    given_indices = []

    def decode_one(arranged, index):
        given_indices.append(index)
        return arranged, index * torch.ones(2, 6, 1)

    same, mean = PatchOrders([2, 3], evaluate="all").eval().decode(tokens, decode_one)
    assert given_indices == list(range(NUM_ORDERS))
    torch.testing.assert_close(same, tokens)
    torch.testing.assert_close(mean, torch.full((2, 6, 1), 4.0))


def test_shift():
    tokens = torch.arange(6.0).view(1, 3, 2)
    assert shift(tokens, torch.tensor([7.0, 8.0])).tolist() == [[[7.0, 8.0], [0.0, 1.0], [2.0, 3.0]]]


def test_an_unknown_mode_and_an_empty_grid_are_refused():
    with pytest.raises(ValueError, match="evaluate is one of standard, random, all, got 'none'"):
        PatchOrders([2, 2], evaluate="none")
    with pytest.raises(ValueError, match="at least 1 x 1, got 0 x 3"):
        patch_orders(0, 3)
