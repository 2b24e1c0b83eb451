"""The slot mixer and its layer: equal to the authors' code, and what holds of any."""

import numpy as np
import pytest
import torch

from object_centric_bench.model.mixer import PreNormBlock, SlotMixer
from object_centric_bench.model.position import FourierPosition

GRID, DIM, WIDTH = [3, 3], 8, 12


class Given(torch.nn.Module):
    """Returns the same for any input."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, tokens):
        return self.value


def make(published_scale=False, **options):
    torch.manual_seed(0)
    return SlotMixer(GRID, [DIM, 16, 16, 16, WIDTH], num_heads=4, published_scale=published_scale, **options)


def load_block(block, arrays, prefix):
    """Give a layer the reference's weights: query, key and value are stacked there."""
    state = {"norm_attention": "ln1", "to_out": "o", "mlp.norm": "ln2", "mlp.layers.0": "ff1", "mlp.layers.1": "ff2"}
    found = {}
    for ours, theirs in state.items():
        gain = ".g" if "norm" in ours else ""
        found |= {f"{ours}.weight": arrays[f"{prefix}/{theirs}{gain}"], f"{ours}.bias": arrays[f"{prefix}/{theirs}.b"]}
    for kind, suffix in (("weight", ""), ("bias", ".b")):
        stacked = np.split(arrays[f"{prefix}/qkv{suffix}"], 3)
        found |= {f"to_{name}.{kind}": part for name, part in zip(("query", "key", "value"), stacked, strict=True)}
    block.load_state_dict({name: torch.from_numpy(value) for name, value in found.items()})


def load_mixer(mixer, arrays):
    for index, block in enumerate(mixer.allocator):
        load_block(block, arrays, f"w/alloc{index}")
    norms = {"norm_memory": "ln_mem", "norm_query": "ln_q", "norm_key": "ln_k"}
    found = {f"{ours}.weight": f"{theirs}.g" for ours, theirs in norms.items()}
    found |= {f"{ours}.bias": f"{theirs}.b" for ours, theirs in norms.items()}
    for index, theirs in enumerate(("mlp0", "mlp1", "mlp2", "out")):
        found |= {f"renderer.layers.{index}.weight": theirs, f"renderer.layers.{index}.bias": f"{theirs}.b"}
    found |= {"position.embedding": "pos", "to_query.weight": "to_q", "to_key.weight": "to_k"}
    state = {ours: torch.from_numpy(arrays[f"w/{theirs}"]) for ours, theirs in found.items()}
    missing, unexpected = mixer.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("allocator.") for name in missing)


@pytest.mark.parity
@pytest.mark.parametrize(("published", "suffix"), [(True, ""), (False, "_conv")])
def test_equals_the_reference(published, suffix, golden):
    arrays = np.load(golden / "beyond" / "videosaur_slotmixer.npz")
    mixer = make(published)
    load_mixer(mixer, arrays)
    slots = torch.from_numpy(arrays["slots"])
    with torch.no_grad():
        reconstruction, mask = mixer(slots)
        query = mixer.allocate(slots)
    found = {f"recon{suffix}": reconstruction.flatten(2).transpose(1, 2), f"masks{suffix}": mask.flatten(2)}
    if published:
        found["alloc_out"] = query
    for name, value in found.items():
        torch.testing.assert_close(value, torch.from_numpy(arrays[name]), rtol=0, atol=1e-5)


def test_the_mixture_is_of_the_slots_themselves():
    """Spec example: logits [[0, 1, 2], [2, 0, 0]] of two places, slots [[1, 0], [0, 1], [1, 1]]."""
    logits = torch.tensor([[0.0, 1, 2], [2, 0, 0]])
    mixer = SlotMixer([1, 2], [2, 2], num_heads=1)
    mixer.renderer.layers[0].weight.data = torch.eye(2)
    mixer.position.embedding.data.zero_()
    mixer.to_query, mixer.norm_query = torch.nn.Identity(), torch.nn.Identity()
    mixer.allocate = lambda slots: logits[None]
    mixer.to_key = torch.nn.Identity()
    mixer.norm_key = Given(torch.eye(3)[None] * 2**0.5)  # makes the queries the logits
    reconstruction, mask = mixer(torch.tensor([[[1.0, 0], [0, 1], [1, 1]]]))
    expected = torch.tensor([[0.755272, 0.909969], [0.893493, 0.213014]])
    torch.testing.assert_close(reconstruction[0, :, 0].T, expected, rtol=0, atol=1e-6)
    weights = torch.tensor([[0.090031, 0.244728, 0.665241], [0.786986, 0.106507, 0.106507]])
    torch.testing.assert_close(mask[0, :, 0].T, weights, rtol=0, atol=1e-6)


def test_weights_sum_to_one_and_follow_the_slots():
    mixer, slots = make(), torch.randn(2, 5, DIM)
    reconstruction, mask = mixer(slots)
    assert reconstruction.shape == (2, WIDTH, 3, 3) and mask.shape == (2, 5, 3, 3)
    torch.testing.assert_close(mask.sum(dim=1), torch.ones(2, 3, 3))
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted, permuted_mask = mixer(slots[:, order])
    torch.testing.assert_close(permuted, reconstruction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted_mask, mask[:, order], rtol=1e-4, atol=1e-5)


def test_slots_that_are_not_valid_have_no_weight():
    valid = torch.tensor([[True, False, True]])
    _, mask = make()(torch.randn(1, 3, DIM), valid)
    assert (mask[:, 1] == 0).all()
    torch.testing.assert_close(mask.sum(dim=1), torch.ones(1, 3, 3))


def test_every_parameter_gets_a_gradient():
    mixer = make(position=FourierPosition(GRID, DIM))
    reconstruction, _ = mixer(torch.randn(2, 3, DIM))
    reconstruction.square().mean().backward()
    for name, parameter in mixer.named_parameters():
        # a key's bias shifts all logits of a query alike, which the softmax does not see; so does that of norm_key
        blind = name.endswith("to_key.bias") or name == "norm_key.bias"
        assert parameter.grad is not None and (blind or parameter.grad.abs().sum() > 0), name


def test_half_precision_keeps_weights_that_sum_to_one():
    with torch.autocast("cpu", torch.bfloat16):
        _, mask = make()(torch.randn(2, 3, DIM))
    assert mask.dtype == torch.float32
    torch.testing.assert_close(mask.sum(dim=1), torch.ones(2, 3, 3))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="dim 6 is no multiple of num_heads 4"):
        PreNormBlock(6)
    with pytest.raises(ValueError, match="dims names at least an input and an output width"):
        SlotMixer(GRID, [DIM])
    with pytest.raises(ValueError, match="slots has shape"):
        make()(torch.randn(2, 3, DIM + 1))
    with pytest.raises(ValueError, match="tokens has shape"):
        PreNormBlock(8)(torch.randn(3, 8))
