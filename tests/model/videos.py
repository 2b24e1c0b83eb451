"""What tests of methods on video share: a small model, a batch, and what every such method must do."""

import torch
from torch.nn import functional

from .sizes import build_method, tiny_backbone

FRAMES = 3


def make(method, **arguments):
    torch.manual_seed(0)
    # stage 1 of the diffusion decoder has codes of few channels, which group norms of one element would make constant
    return build_method(method, tiny_backbone(), **{"basis_dim": 64, "logit_scale": 2.35, **arguments})


def batch(frames=FRAMES):
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(2, frames, 4, 2, generator=generator) / 2
    box = torch.cat([corner, corner + 0.3], dim=-1)
    return {"video": torch.randn(2, frames, 3, 64, 64, generator=generator), "box": box}


def frame_by_frame(model, video, box, timestep=None, noise=None):
    """The method as its paper tells it, one frame after the other; returns the outputs stacked over t."""
    outputs = []
    slots = model.initializer(box[:, 0])
    for frame, image in enumerate(video.unbind(1)):
        feature = model.backbone(image)
        tokens = model.projection(feature.flatten(2).transpose(1, 2))
        slots, attention = model.slot_attention(tokens, slots)
        token = model.tokenizer(image if model.tokenizer.encoder.input_dim == 3 else feature)
        output = {
            "feature": feature,
            "slots": slots,
            "attention": attention.unflatten(2, feature.shape[2:]),
            "code": token["code"],
            "quantized": token["quantized"],
        }
        if noise is not None:
            steps, noises = timestep[:, frame], noise[:, frame]
            output["prediction"], output["noise"] = model.decoder(token["quantized"], slots, steps, noises)
        elif hasattr(model.decoder, "output_dim"):
            reconstruction, output["mask"] = model.decoder(slots)
            output["quantized_reconstruction"] = reconstruction[:, : model.tokenizer.dim]
            output["feature_reconstruction"] = reconstruction[:, model.tokenizer.dim :]
        else:
            output["logits"] = model.decoder(token["quantized"], slots)
        outputs.append(output)
        slots = model.predictor(slots)
    return {key: torch.stack([output[key] for output in outputs], dim=1) for key in outputs[0]}


def loss_of(output):
    """The method's loss."""
    if "logits" in output:
        return functional.cross_entropy(output["logits"].flatten(0, 1), output["code"].flatten(0, 1))
    if "noise" in output:
        return functional.mse_loss(output["prediction"], output["noise"])
    loss = functional.mse_loss(output["quantized_reconstruction"], output["quantized"])
    return loss + functional.mse_loss(output["feature_reconstruction"], output["feature"])


def check_gradients(model, inputs):
    """Every trained parameter gets a gradient that is not zero, and no other gets one."""
    loss_of(model(**inputs)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("backbone.", "tokenizer.")):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            # shifts the logits of all slots alike, which the softmax over slots does not see
            assert parameter.grad.abs().sum() > 0 or name == "slot_attention.norm_slots.bias", name


def check_close(output, expected, rtol=1e-4, atol=1e-5):
    assert output.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(output[key], value, rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}")
