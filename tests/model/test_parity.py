"""Same numbers as the reference implementation: outputs, losses, gradients, scores and five optimisation steps.

Every model of the folder is built from the sizes that its .json states; its weights come in through the importer of
published checkpoints, and its losses are those that configs name.
"""

from functools import lru_cache

import pytest
import torch

from object_centric_bench.learn.callback import mask_to_segment
from object_centric_bench.learn.metric import Segmentation
from object_centric_bench.model import published
from object_centric_bench.model.broadcast import BroadcastMLP
from tests.conftest import GOLDEN, require

from .reference import Reference

pytestmark = pytest.mark.parity

ATOL = RTOL = 1e-5
MARGIN = 1e-4  # between the two best slots; below it a label is a tie
ZERO = "m.aggregat.norm1q.bias"  # its true gradient is zero; what is computed is rounding noise
MODELS = sorted((GOLDEN / "models").glob("*.json"))
read = lru_cache(maxsize=None)(Reference)


def stem(path):
    return path.stem


def test_folder_has_models():
    """An empty selection of models must not pass for agreement."""
    folder = require(require(GOLDEN) / "models")
    assert MODELS, f"{folder} holds no .json of a model"


class Comparison:
    """Collects the largest difference of each kind, and every pair that differs too much."""

    def __init__(self):
        self.largest = {}
        self.faults = []

    def __call__(self, kind, name, ours, theirs, rtol=RTOL):
        ours, theirs = torch.as_tensor(ours).detach(), torch.as_tensor(theirs)
        if ours.shape != theirs.shape:
            self.faults.append(f"{kind} {name}: {tuple(ours.shape)}, reference {tuple(theirs.shape)}")
            return
        difference = (ours.double() - theirs.double()).abs()
        self.largest[kind] = max(self.largest.get(kind, 0.0), difference.max().item() if difference.numel() else 0.0)
        exact = not theirs.is_floating_point()
        bound = 0 if exact else ATOL + rtol * theirs.double().abs()
        if not bool((difference <= bound).all()):
            self.faults.append(f"{kind} {name}: {difference.max():.2e} apart, values up to {theirs.abs().max():.2e}")


@pytest.mark.parametrize("path", MODELS, ids=stem)
def test_model_equals_reference(path, record_property):
    reference = read(path)
    assert published.is_published(reference.state)
    model = reference.build()
    compare = Comparison()
    compare_block(compare, reference, model, prefix="")
    if block := reference.description["alpha_block"]:
        before, model.tokenizer.latent_mix = model.tokenizer.latent_mix, block["alpha"]
        compare_block(compare, reference, model, prefix=block["prefix"])
        model.tokenizer.latent_mix = before
    if trajectory := reference.description["trajectory"]:
        compare_trajectory(compare, reference, model, trajectory)
    errors = {kind: f"{value:.1e}" for kind, value in compare.largest.items()}
    record_property("largest_errors", errors)
    print(f"\n{path.stem} ({reference.method}): {errors}")
    assert not compare.faults, "\n".join(compare.faults)


def compare_block(compare, reference, model, prefix):
    """Compare one forward and backward pass."""
    tensors = reference.tensors
    output = model(**reference.inputs)
    for name, ours, theirs in reference.output_pairs(output, prefix):
        compare("output", prefix + name, ours, theirs)
    losses = reference.losses(output)
    expected = {key for key in tensors if key.startswith(f"{prefix}loss.")}
    assert expected == {f"{prefix}loss.{name}" for name in losses}
    for name, ours in losses.items():  # of a later version of the reference they have shape (1,)
        compare("loss", prefix + name, ours, tensors[f"{prefix}loss.{name}"].squeeze())
    total = sum(losses.values())
    compare("loss", f"{prefix}total", total, tensors[f"{prefix}loss_total"])
    model.zero_grad()
    total.backward()
    compare_gradients(compare, reference, model, prefix)
    if f"{prefix}segment" in tensors:
        source = reference.outputs[reference.description["segment_source"].removeprefix("output.")]
        segment = mask_to_segment(output[source].detach(), list(reference.picture.shape[-2:]))
        clear = tensors[f"{prefix}segment_margin"].float() > MARGIN
        assert clear.float().mean() > 0.5
        theirs = tensors[f"{prefix}segment"]
        if theirs.dtype == torch.bool:  # one-hot over the last axis
            assert bool((theirs.sum(dim=-1) == 1).all())
            theirs = theirs.int().argmax(dim=-1)
        compare("segment", prefix, segment[clear].long(), theirs[clear].long())
        compare_scores(compare, reference, torch.where(clear, segment, theirs), prefix)


def compare_scores(compare, reference, segment, prefix):
    """Compare the means of the scores, where they are stored; `segment` (b h w) or (b t h w) has ties as there."""
    stored = reference.under(f"{prefix}metric.")
    batch = {"segment": reference.tensors["input.segment"]}
    scores = Segmentation(scores=tuple(stored))(batch, {"segment": segment})
    for name, (values, valid) in scores.items():
        compare("score", f"{prefix}{name}", values[valid].mean(), stored[name])


def compare_gradients(compare, reference, model, prefix):
    """Compare every stored gradient, and expect one for every parameter that has one there, and no other."""
    table = published.names(model)
    gradients = reference.under(f"{prefix}grad.")
    assert gradients
    parameters = dict(model.named_parameters())
    mixture = isinstance(getattr(model, "decoder", None), BroadcastMLP)
    mask_bias = f"decoder.layers.{len(model.decoder.layers) - 1}.bias" if mixture else None
    for their, theirs in gradients.items():
        our = published.rename(their, table)
        ours = parameters[our].grad
        if ours is None:
            compare.faults.append(f"gradient {prefix}{our}: none, reference has {their}")
        elif their == ZERO:
            compare("gradient", prefix + our, ours, theirs, rtol=0)
        elif our == mask_bias:
            compare("gradient", prefix + our, ours[:-1], theirs[:-1])
            compare("gradient", f"{prefix}{our} (mask)", ours[-1], theirs[-1], rtol=0)  # truly zero, too
        else:
            compare("gradient", prefix + our, ours, theirs)
    description = reference.description
    dropped = {key.removeprefix("grad.") for key in description["dropped_gradients"]}
    theirs = {published.rename(their, table) for their in gradients.keys() | dropped}
    ours = {our for our, parameter in parameters.items() if parameter.grad is not None}
    if ours != theirs:
        compare.faults.append(f"gradients {prefix}: only on one side: {sorted(ours ^ theirs)}")
    unused = {published.rename(name, table) for name in description["parameters_requiring_grad_but_without_gradient"]}
    trained = {our for our, parameter in parameters.items() if parameter.requires_grad}
    if trained != theirs | unused:
        compare.faults.append(f"trained {prefix}: only on one side: {sorted(trained ^ (theirs | unused))}")


def compare_trajectory(compare, reference, model, trajectory):
    """Compare five optimisation steps."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=trajectory["lr"])
    losses, norms = [], []
    for _ in trajectory["losses"]:
        loss = sum(reference.losses(model(**reference.inputs)).values())
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), trajectory["clip_max_norm"]).item())
        optimizer.step()
        losses.append(loss.item())
    losses.append(sum(reference.losses(model(**reference.inputs)).values()).item())
    compare("trajectory", "losses", losses, [*trajectory["losses"], trajectory["loss_after_last_step"]])
    compare("trajectory", "gradient norms", norms, trajectory["grad_norms"])
    table = published.names(model)
    after = dict(model.named_parameters())
    for their, theirs in trajectory["update_l2"].items():
        our = published.rename(their, table)
        if their != ZERO:  # Adam scales its rounding noise up to steps
            compare("trajectory", our, (after[our].detach() - before[our]).norm().item(), theirs)


@pytest.mark.parametrize("path", MODELS, ids=stem)
def test_second_stage_takes_its_parts_from_the_first(path):
    """The reference's own map of names, applied to the first stage's file, gives what our import gives."""
    reference = read(path)
    description = reference.description
    source = description["quantised_autoencoder_state_loaded_from_fixture"]
    if source is None:
        assert not description["checkpoint_map_target_source"]
        return
    first, model = read(path.with_name(f"{source}.json")), reference.build()
    parts = [f"tokenizer.{name}" for name, child in model.tokenizer.named_children() if name != "decoder"]
    pairs = description["checkpoint_map_target_source"]
    if (backbone := description["backbone_state_loaded_from_fixture"]) is not None:
        assert backbone == source
        parts.append("backbone")
        pairs = [*pairs, ["m.encode_backbone.", "m.encode_backbone."]]
    taken = published.translate(first.state, model, parts)
    mapped = {
        target + name.removeprefix(origin): tensor
        for target, origin in pairs
        for name, tensor in first.state.items()
        if name.startswith(origin)
    }
    table = published.names(model)
    assert taken.keys() == {published.rename(name, table) for name in mapped}
    whole = published.translate(reference.state, model)
    assert taken.keys() == {name for name in whole if name.startswith(tuple(f"{part}." for part in parts))}
    for name, tensor in mapped.items():
        our = published.rename(name, table)
        assert torch.equal(taken[our], tensor), name
        assert torch.equal(taken[our], whole[our]), name
