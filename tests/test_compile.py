"""Compiled methods: the same losses as without, one graph for slot attention and decoders, nothing compiled anew."""

from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from object_centric_bench.learn.optimizer import train_mode
from object_centric_bench.model.compilation import compile_parts
from object_centric_bench.model.initializer import SharedGaussian
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.nine_order import NineOrderTransformer, SPOTDecoder
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.model.spot import SPOT
from object_centric_bench.model.vvo import VVOTfd9

from .model import test_videosaur, videos
from .model.second_stage import make_parts, make_tokenizer
from .model.sizes import tiny_backbone

STEPS = 4


def make_spot():
    torch.manual_seed(0)
    return SPOT(
        backbone=tiny_backbone(),
        projection=MLP([48, 48, 48], norm=True, activation="relu"),
        initializer=SharedGaussian(4, 32),
        slot_attention=SlotAttention(32, 48, bilevel=False, dropout=0.0, activation="relu"),
        decoder=SPOTDecoder([4, 4], 48, 32, num_layers=2, num_heads=3),
    )


def make_tfd9():
    torch.manual_seed(0)
    decoder = NineOrderTransformer([4, 4], 32, 40, num_layers=2)
    return VVOTfd9(**make_parts(make_tokenizer("simvq", 32)), decoder=decoder)


METHODS = {
    "DINOSAUR": partial(videos.make, "DINOSAUR"),
    "SLATE": partial(videos.make, "SLATE"),
    "SLATE with GDR": partial(videos.make, "SLATE", codes="grouped", num_codes=[16, 16]),
    "SLATE with MSF": partial(videos.make, "SLATE", codes="multi-scale", num_codes=[16, 16, 8]),
    "SlotDiffusion": partial(videos.make, "SlotDiffusion"),
    "VVO-Tfd": partial(videos.make, "VVOTfd"),
    "VVO-Mlp": partial(videos.make, "VVOMlp"),
    "VVO-Dfz": partial(videos.make, "VVODfz"),
    "VVO-Tfd9": make_tfd9,
    "SPOT": make_spot,
    "STEVE": partial(videos.make, "STEVE"),
    "VVO-TfdT": partial(videos.make, "VVOTfdT"),
    "VideoSAUR": test_videosaur.make,
    "VVO-SmdT": partial(test_videosaur.make, "VVOSmdT"),
}
VIDEO = ("STEVE", "VVO-TfdT", "VideoSAUR", "VVO-SmdT")


def without_dropout(model):
    """Compiled code draws in another order, so that dropout would hide differences."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(vars(part).get("dropout"), float):
            part.dropout = 0.0
    return model


def losses(model, batch):
    """Train some steps while schedules move numbers; return the losses."""
    torch.manual_seed(0)
    train_mode(model)
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.0)
    found = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1)
        if hasattr(model, "tokenizer"):
            model.tokenizer.latent_mix = 1 - step / STEPS
            if hasattr(model.tokenizer, "logit_scale"):
                model.tokenizer.logit_scale = 2.0 + step
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            output = model(**batch)
            loss = sum(value.square().mean() for value in output.values() if value.requires_grad)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def check(name, backend):
    batch = videos.batch()
    if name not in VIDEO:
        batch = {"image": batch["video"][:, 0]}
    elif name in ("VideoSAUR", "VVO-SmdT"):
        del batch["box"]
    expected = losses(without_dropout(METHODS[name]()), batch)
    model = without_dropout(METHODS[name]())
    names = list(model.state_dict())
    torch._dynamo.reset()
    counters.clear()
    parts = compile_parts(model, backend)
    assert {"backbone", "projection", "slot_attention", "decoder"} <= set(parts)
    assert losses(model, batch) == pytest.approx(expected, rel=1e-4)
    assert list(model.state_dict()) == names
    assert counters["stats"]["unique_graphs"] >= 5  # slot attention alone has two
    assert not counters["graph_break"]


@pytest.mark.parametrize("name", ["SLATE", "SPOT", "VVO-Tfd9"])
def test_tracing_gives_the_same_losses_in_whole_graphs(name):
    """All but making machine code, for three methods: what takes a minute each is in the slow test below."""
    check(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_compiling_gives_the_same_losses_in_whole_graphs(name, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "inductor"  # parts that methods share are compiled once
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    check(name, "inductor")


def test_a_teacher_is_compiled_too():
    model = make_spot()
    model.teacher = make_spot()
    parts = compile_parts(model, "eager")
    assert [f"teacher.{part}" for part in parts if not part.startswith("teacher.")] == [
        part for part in parts if part.startswith("teacher.")
    ]
