import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from object_centric_bench.model.diffusion import DiffusionDecoder


def make(**options):
    torch.manual_seed(0)
    sizes = {"grid": [4, 4], "latent_dim": 4, "dim": 16, "widths": [32, 64], "layers_per_block": 1, **options}
    return DiffusionDecoder(**sizes).eval()


class Recorder(nn.Module):
    """Stands for the UNet; keeps what it is given."""

    def forward(self, noisy, timestep, encoder_hidden_states, return_dict):
        self.noisy, self.timestep, self.slots = noisy, timestep, encoder_hidden_states
        return (noisy,)


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return {
        "latent": torch.randn(2, 4, 4, 4),
        "slots": torch.randn(2, 3, 16),
        "timestep": torch.tensor([10, 800]),
        "noise": torch.randn(2, 4, 4, 4),
    }


def test_noise_schedule():
    """Numbers: the reference's, beta = linspace(sqrt(0.0015), sqrt(0.0195), 1000) ** 2."""
    decoder = make()
    kept = decoder.signal_scale.double() ** 2
    assert len(kept) == 1000
    for step, expected in {0: 0.99850, 499: 0.11584, 999: 1.423e-4}.items():
        assert kept[step].item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(kept + decoder.noise_scale.double() ** 2, torch.ones(1000).double(), atol=1e-6, rtol=0)
    assert not {"signal_scale", "noise_scale"} & decoder.state_dict().keys()


def test_noisy_latents_equal_those_of_diffusers(inputs):
    scheduler = DDPMScheduler(1000, beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
    latent, noise = torch.randn(1000, 4, 4, 4), torch.randn(1000, 4, 4, 4)
    timestep = torch.arange(1000)
    assert torch.equal(make().add_noise(latent, timestep, noise), scheduler.add_noise(latent, noise, timestep))


def test_full_size_is_that_of_the_reference():
    """Numbers: models.md 2.15 of the specification, counted in the published checkpoints."""
    with torch.device("meta"):
        decoder = DiffusionDecoder([16, 16], 4, 256)
    assert len(decoder.state_dict()) == 688
    assert sum(tensor.numel() for tensor in decoder.state_dict().values()) == 135_048_452
    modules = dict(decoder.unet.named_modules())
    attentions = {name: part for name, part in modules.items() if name.endswith(("attn1", "attn2"))}
    assert {part.heads for part in attentions.values()} == {8}
    assert not any(name.startswith(("down_blocks.0", "up_blocks.3")) for name in attentions)
    for level, width in ((1, 256), (2, 384), (3, 512)):
        assert attentions[f"down_blocks.{level}.attentions.0.transformer_blocks.0.attn1"].to_q.in_features == width
    dropping = [name for name, part in modules.items() if isinstance(part, nn.Dropout) and part.p > 0]
    assert len(dropping) == 22
    assert all(".resnets." in name for name in dropping)
    assert {modules[name].p for name in dropping} == {0.1}
    norms = {name: part for name, part in modules.items() if isinstance(part, nn.GroupNorm)}
    assert {part.num_groups for part in norms.values()} == {32}
    assert {part.eps for name, part in norms.items() if ".resnets." in name} == {1e-5}
    assert {part.eps for name, part in norms.items() if ".attentions." in name} == {1e-6}


def test_time_is_told_in_cosines_and_sines(inputs):
    """By hand: frequencies 10000 ** (-i / n), cosines first.

    No fixture shows it: with one channel per group, as they have, the group norm after it takes time away again.
    """
    decoder = make(widths=[64, 64])
    timestep = inputs.pop("timestep")
    angle = timestep[:, None] * 10000 ** (-torch.arange(32) / 32)
    expected = torch.cat([angle.cos(), angle.sin()], dim=1)
    torch.testing.assert_close(decoder.unet.time_proj(timestep), expected, rtol=0, atol=1e-4)
    prediction, later = (decoder(**inputs, timestep=time)[0] for time in (timestep, timestep + 100))
    assert (prediction - later).abs().max() > 1e-3


@pytest.mark.parametrize("grid", [[4, 4], [3, 5]])
def test_prediction_has_the_shape_of_the_latent(grid):
    latent, slots = torch.randn(2, 4, *grid), torch.randn(2, 3, 16)
    prediction, noise = make(grid=grid)(latent, slots)
    assert prediction.shape == noise.shape == latent.shape


def test_given_noise_is_used_as_it_is_and_the_result_is_fixed(inputs):
    decoder = make()
    prediction, noise = decoder(**inputs)
    assert noise is inputs["noise"]
    assert torch.equal(decoder(**inputs)[0], prediction)
    other = inputs | {"timestep": torch.tensor([11, 800])}
    differs = (decoder(**other)[0] - prediction).abs().amax(dim=(1, 2, 3))
    assert differs[0] > 0
    assert differs[1] == 0  # samples do not meet


def test_what_is_not_given_is_drawn_from_the_global_generator(inputs):
    decoder = make(num_steps=5)
    decoder.unet = Recorder()
    latent, slots = torch.randn(4000, 4, 4, 4), torch.zeros(4000, 3, 16)
    torch.manual_seed(3)
    noisy, noise = decoder(latent, slots)
    timestep = decoder.unet.timestep
    torch.manual_seed(3)
    assert torch.equal(decoder(latent, slots)[0], noisy)
    assert not torch.equal(decoder(latent, slots)[0], noisy)
    assert timestep.bincount(minlength=5).float().div(4000).sub(0.2).abs().max() < 0.03
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    kept = (1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 5) ** 2).cumprod(0)[timestep].view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy, kept.sqrt() * latent + (1 - kept).sqrt() * noise)


def test_order_of_slots_does_not_count_but_slots_do(inputs):
    decoder = make()
    prediction, _ = decoder(**inputs)
    flipped, _ = decoder(**inputs | {"slots": inputs["slots"].flip(1)})
    torch.testing.assert_close(flipped, prediction)
    other, _ = decoder(**inputs | {"slots": inputs["slots"] + 1})
    assert (other - prediction).abs().max() > 1e-4


def test_every_parameter_and_the_slots_get_a_gradient(inputs):
    decoder = make().train()
    slots = inputs.pop("slots").requires_grad_()
    prediction, noise = decoder(slots=slots, **inputs)
    (prediction - noise).square().mean().backward()
    assert slots.grad.abs().min() > 0
    assert not [name for name, parameter in decoder.named_parameters() if not parameter.grad.abs().sum() > 0]


def test_latents_of_half_precision_get_noise_of_full_precision(inputs):
    decoder = make()
    with torch.autocast("cpu", torch.bfloat16):
        prediction, noise = decoder(inputs["latent"].bfloat16(), inputs["slots"])
    assert noise.dtype == torch.float32
    assert torch.isfinite(prediction).all()
    decoder.unet = Recorder()
    noisy, _ = decoder(inputs["latent"].bfloat16(), inputs["slots"])
    assert noisy.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("latent", (2, 4, 8, 8), r"latent has shape \(2, 4, 8, 8\), wanted \(any, 4, 4, 4\)"),
        ("latent", (2, 3, 4, 4), "latent has shape"),
        ("slots", (2, 3, 8), r"slots has shape \(2, 3, 8\), wanted \(2, any, 16\)"),
        ("slots", (1, 3, 16), "slots has shape"),
        ("timestep", (1,), r"timestep has shape \(1,\), wanted \(2\)"),
        ("noise", (2, 1, 4, 4), r"noise has shape \(2, 1, 4, 4\), wanted \(2, 4, 4, 4\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs, name, shape, message):
    inputs[name] = torch.zeros(shape, dtype=inputs[name].dtype)
    with pytest.raises(ValueError, match=message):
        make()(**inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(widths=[32, 48]), "width 48 is no multiple of 32"),
        (dict(widths=[20, 32], num_heads=3), "width 20 is no multiple of 32; width 32 is no multiple of num_heads 3"),
        (dict(widths=[]), "at least one level"),
        (dict(num_steps=0), "num_steps is at least 1, got 0"),
        (dict(beta_start=0.02), "0 < beta_start <= beta_end < 1 is needed, got 0.02 and 0.0195"),
    ],
)
def test_settings_that_make_no_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
