import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from object_centric_bench.model.place_diffusion import PlaceDiffusionDecoder, step_waves
from object_centric_bench.model.position import FourierPosition
from object_centric_bench.registry import build

GRID = [3, 4]


def make(**options):
    torch.manual_seed(0)
    sizes = dict(grid=GRID, latent_dim=4, dim=16, position=FourierPosition(GRID, 8), width=8, hidden_dim=12)
    return PlaceDiffusionDecoder(**(sizes | options)).eval()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    noisy, slots = torch.randn(2, 4, *GRID), torch.randn(2, 3, 16)
    return noisy, torch.tensor([10, 800]), slots


def test_noise_is_added_and_predicted(inputs):
    latent, timestep, slots = inputs
    decoder, noise = make(), torch.randn(2, 4, *GRID)
    prediction, target = decoder(latent, slots, timestep, noise)
    assert torch.equal(target, noise)
    torch.testing.assert_close(prediction, decoder.denoise(decoder.add_noise(latent, timestep, noise), timestep, slots))
    assert prediction.shape == latent.shape


def test_a_place_tells_of_itself_alone(inputs):
    noisy, timestep, slots = inputs
    decoder, changed = make(), noisy.clone()
    changed[0, :, 1, 2] += 1
    difference = (decoder.denoise(changed, timestep, slots) - decoder.denoise(noisy, timestep, slots)).abs().sum(dim=1)
    assert difference[0, 1, 2] > 0
    difference[0, 1, 2] = 0
    assert not difference.any()


def test_the_same_latent_is_denoised_otherwise_at_another_place_step_and_with_other_slots(inputs):
    _, timestep, slots = inputs
    decoder, same = make(), torch.ones(2, 4, *GRID)
    prediction = decoder.denoise(same, timestep, slots)
    assert len(torch.unique(prediction[0, 0])) == 12
    assert not torch.allclose(decoder.denoise(same, timestep - 10, slots), prediction)
    assert not torch.allclose(decoder.denoise(same, timestep, slots + 1), prediction)


def test_the_order_of_slots_does_not_matter(inputs):
    noisy, timestep, slots = inputs
    decoder = make(num_heads=2)
    expected = decoder.denoise(noisy, timestep, slots)
    torch.testing.assert_close(decoder.denoise(noisy, timestep, slots[:, [2, 0, 1]]), expected)


def test_waves_of_a_step_are_those_of_diffusers():
    timestep = torch.tensor([0, 1, 99, 999])
    expected = get_timestep_embedding(timestep, 64, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(step_waves(timestep, 64), expected, rtol=0, atol=1e-4)


def test_every_parameter_gets_a_gradient(inputs):
    latent, timestep, slots = inputs
    decoder, slots = make(), slots.requires_grad_()
    prediction, noise = decoder(latent, slots, timestep)
    (prediction - noise).square().mean().backward()
    # softmax does not see what all keys have in common, so their bias has none
    key_bias = slice(0, 8)
    gradients = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    assert all(gradient.any() for gradient in gradients.values())
    assert gradients["denoiser.to_key_value.bias"][key_bias].abs().max() < 1e-6
    assert slots.grad.abs().sum(dim=(1, 2)).min() > 0


def test_it_compiles_as_one_graph(inputs):
    decoder = make()
    expected = decoder.denoise(*inputs)
    assert decoder.compiled_parts == ("denoiser",)
    decoder.denoiser.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(decoder.denoise(*inputs), expected)


def test_wrong_sizes():
    with pytest.raises(ValueError, match="width must be a multiple of twice num_heads, got 8 and 3"):
        make(num_heads=3)
    with pytest.raises(ValueError, match="num_steps is at least 1, got 0"):
        make(num_steps=0)


def test_a_config_names_it():
    position = dict(type="FourierPosition", grid=GRID, dim=8)
    node = dict(type="PlaceDiffusionDecoder", grid=GRID, latent_dim=4, dim=16, width=8, position=position)
    assert isinstance(build(node, "decoder"), PlaceDiffusionDecoder)
