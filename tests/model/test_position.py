"""Positions: where they start, and what they are added to."""

import pytest
import torch

from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.position import FourierPosition, LearnedPosition, Positioned


def test_learned_positions_are_added_and_a_shorter_sequence_takes_the_first():
    position = LearnedPosition(6, 4)
    tokens = torch.randn(2, 3, 4)
    assert torch.equal(position(tokens), tokens + position.embedding[:, :3])
    with pytest.raises(ValueError, match="do not fit"):
        position(torch.zeros(2, 7, 4))


def test_fourier_positions_start_alike_for_neighbours_and_apart_for_all():
    embedding = FourierPosition([8, 12], 32).embedding[0].unflatten(0, (8, 12))
    distance = (embedding[:, :, None, None] - embedding[None, None]).norm(dim=-1)  # h w h w
    near = distance[3, 4, 3, 5]
    assert near < distance[3, 4, 3, 9]
    assert near < distance[3, 4, 7, 4]
    assert (distance.flatten(0, 1).flatten(1) + 10 * torch.eye(96)).min() > 0.3  # no two places share a vector
    y, x = 2, 5
    expected = 1.2 * torch.sin(torch.tensor((y + 0.5) / 8 * torch.pi))  # half a wave per side
    torch.testing.assert_close(embedding[y, x, 0], expected)
    expected = 1.2 * torch.cos(torch.tensor((x + 0.5) / 12 * torch.pi * 6))  # a wave per two places
    torch.testing.assert_close(embedding[y, x, -1], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="multiple of 4"):
        FourierPosition([8, 8], 30)


def test_positioned_tokens_tell_places_apart_that_look_alike():
    module = Positioned(MLP([5, 8]), FourierPosition([2, 2], 8))
    assert (module.input_dim, module.dim) == (5, 8)
    tokens = torch.ones(1, 4, 5)
    difference = module(tokens) - module.projection(tokens)
    torch.testing.assert_close(difference, module.position.embedding)
