"""Compiled methods: the same losses as without, one graph for slot attention and decoders, nothing compiled anew.

What takes time is the C++ compiler, most of a second for every kernel that it has not seen, however small. So models
have one layer of each kind, one level and two iterations, and all methods share parts, widths and shapes: pictures are
the frames of the videos.
"""

import os
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from object_centric_bench import config
from object_centric_bench.datum import shapes
from object_centric_bench.experiment import Settings, build_run, complete
from object_centric_bench.learn.loop import evaluate, train
from object_centric_bench.learn.optimizer import train_mode
from object_centric_bench.model.compilation import compile_parts
from object_centric_bench.model.initializer import SharedGaussian
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.nine_order import NineOrderTransformer, SPOTDecoder
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.model.spot import SPOT
from object_centric_bench.model.vvo import VVOTfd9
from object_centric_bench.restore import resume

from .conftest import REPOSITORY
from .model import test_videosaur, videos
from .model.sizes import DINOV2, build_method, tiny_backbone

STEPS = 4
FRAMES = 2
VIT = dict(depth=1, num_heads=4)
WIDTH = 32  # of features, codes and slots


def make(method, **arguments):
    torch.manual_seed(0)
    sizes = dict(num_iterations=2, num_layers=1, decoder_dims=[64], basis_dim=64)
    return build_method(method, tiny_backbone(WIDTH, **VIT), **sizes, logit_scale=2.35, **arguments)


def make_spot():
    torch.manual_seed(0)
    return SPOT(
        backbone=tiny_backbone(WIDTH, **VIT),
        projection=MLP([WIDTH, 2 * WIDTH, WIDTH], norm=True, activation="relu"),
        initializer=SharedGaussian(4, WIDTH),
        slot_attention=SlotAttention(WIDTH, num_iterations=2, bilevel=False, dropout=0.0, activation="relu"),
        decoder=SPOTDecoder([4, 4], WIDTH, WIDTH, num_layers=1, num_heads=4),
    )


def make_tfd9():
    parts = dict(make("VVOTfd").named_children())
    return VVOTfd9(**parts | {"decoder": NineOrderTransformer([4, 4], WIDTH, 64, num_layers=1)})


METHODS = {
    "DINOSAUR": partial(make, "DINOSAUR"),
    "SLATE": partial(make, "SLATE"),
    "SLATE with GDR": partial(make, "SLATE", codes="grouped", num_codes=[16, 16]),
    "SLATE with MSF": partial(make, "SLATE", codes="multi-scale", num_codes=[16, 16, 8]),
    "SlotDiffusion": partial(make, "SlotDiffusion", unet={"widths": [32]}),
    "VVO-Tfd": partial(make, "VVOTfd"),
    "VVO-Mlp": partial(make, "VVOMlp"),
    "VVO-Dfz": partial(make, "VVODfz", unet={"widths": [32]}),
    "VVO-Tfd9": make_tfd9,
    "SPOT": make_spot,
    "STEVE": partial(make, "STEVE"),
    "VVO-TfdT": partial(make, "VVOTfdT"),
    "VideoSAUR": partial(test_videosaur.make, "VideoSAUR", iterations=(2, 1), width=WIDTH, **VIT),
    "VVO-SmdT": partial(test_videosaur.make, "VVOSmdT", iterations=(2, 1), width=WIDTH, **VIT),
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


def check(name, backend, build):
    batch = videos.batch(FRAMES)
    if name not in VIDEO:
        batch = {"image": batch["video"].flatten(0, 1)}
    elif name in ("VideoSAUR", "VVO-SmdT"):
        del batch["box"]
    expected = losses(without_dropout(build()), batch)
    model = without_dropout(build())
    names = list(model.state_dict())
    torch._dynamo.reset()
    counters.clear()
    parts = compile_parts(model, backend)
    assert {"backbone", "projection", "slot_attention", "decoder"} <= set(parts)
    assert losses(model, batch) == pytest.approx(expected, rel=1e-4)
    assert list(model.state_dict()) == names
    assert counters["stats"]["unique_graphs"] >= 5  # slot attention alone has two
    assert not counters["graph_break"]


@pytest.mark.parametrize("name", ["SLATE", "SlotDiffusion", "SPOT", "VVO-Tfd9"])
def test_tracing_gives_the_same_losses_in_whole_graphs(name):
    """All but making machine code, for some methods, with a UNet of two levels: the slow test below takes minutes."""
    check(name, "aot_eager", partial(make, name) if name == "SlotDiffusion" else METHODS[name])


@pytest.fixture
def inductor(tmp_path_factory, monkeypatch):
    """A cache of its own for this session, in which parts that methods share are compiled once, by all its workers."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_compiling_gives_the_same_losses_in_whole_graphs(name, inductor):
    check(name, "inductor", METHODS[name])


@pytest.mark.slow
def test_a_run_with_compile_is_the_run_without(tmp_path, inductor):
    """As `train.py` does it: losses and scores are the same, and each takes up the other's checkpoint."""
    shapes.convert(tmp_path / "shapes", num_train=8, num_val=4, size=64)
    settings = Settings(tmp_path, tmp_path, device="cpu")
    torch._dynamo.reset()
    runs, tables = {}, {}
    for name in ("True", "False"):
        cfg = tiny_config(f"compile={name}")
        folder = tmp_path / name
        folder.mkdir()
        runs[name] = build_run(complete(cfg), settings, folder)
        train(runs[name])
        rows = (folder / "losses.csv").read_text().splitlines()[1:]
        tables[name] = [[float(value) for value in row.split(",")] for row in rows]
        tables[name].append(list(runs[name].result.values()))
    assert is_compiled(runs["True"]) and not is_compiled(runs["False"])
    assert len(tables["True"]) == 4
    for ours, theirs in zip(tables["True"], tables["False"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    expected = dict(runs["True"].result)
    for name, other in (("True", "False"), ("False", "True")):
        assert resume(runs[name], tmp_path / other, anyway=True)  # the configs differ in `compile`
        evaluate(runs[name])
        assert runs[name].result == pytest.approx(expected, rel=1e-4, abs=1e-6)


def tiny_config(override):
    """DINOSAUR in the sizes of the test above, so that most of it is compiled already."""
    overrides = ["dropout=0.0", "batch_size=4", "total_steps=3", "eval_every=3", override]
    cfg = config.load(REPOSITORY / "benchmarks" / "tiny.py", overrides)
    parts = cfg["model"]
    parts["backbone"] |= {"name": DINOV2, "resolution": [56, 56]}
    parts["backbone"]["options"] = {"embed_dim": WIDTH, **VIT}
    parts["projection"]["dims"] = parts["decoder"]["dims"] = [WIDTH, 2 * WIDTH, WIDTH]
    parts["slot_attention"] |= {"hidden_dim": None, "num_iterations": 2}
    cfg["dataset"]["eval_batch_size"] = 4
    return cfg


def is_compiled(run):
    """Whether a method of slot attention was replaced, on the object itself, by the compiler's."""
    return "refine_with_logits" in vars(run.network.slot_attention)


def test_a_teacher_is_compiled_too():
    model = make_spot()
    model.teacher = make_spot()
    parts = compile_parts(model, "eager")
    assert [f"teacher.{part}" for part in parts if not part.startswith("teacher.")] == [
        part for part in parts if part.startswith("teacher.")
    ]
