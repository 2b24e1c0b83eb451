"""VideoSAUR and VVO-SmdT: the recurrence equals the authors' code; what both must do; training makes them better."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

import train
from object_centric_bench import config
from object_centric_bench.datum import moving_shapes
from object_centric_bench.learn.similarity import TemporalSimilarity
from object_centric_bench.model.autoencoder import FeatureEncoder, Tokenizer
from object_centric_bench.model.backbone import Backbone
from object_centric_bench.model.initializer import BoxMLP, SharedGaussian
from object_centric_bench.model.keys import features_and_keys
from object_centric_bench.model.mixer import PreNormBlock, SlotMixer
from object_centric_bench.model.mlp import MLP
from object_centric_bench.model.quantizer import ProjectedCodebook
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.model.temporal import group_frames
from object_centric_bench.model.videosaur import VideoSAUR
from object_centric_bench.model.vvo_smdt import VVOSmdT

from ..conftest import REPOSITORY
from .sizes import tiny_backbone
from .test_mixer import load_block
from .videos import FRAMES, batch, check_close

DIM, CODE_DIM, WIDTH, PLACES = 32, 16, 48, 16
METHODS = ["VideoSAUR", "VVOSmdT"]


def attention(dim=DIM, **options):
    """Slot attention as VideoSAUR's."""
    arguments = {"num_iterations": 2, "first_iterations": 3, "bilevel": False, "epsilon": 1e-8, **options}
    return SlotAttention(dim, hidden_dim=0, normalize_state=True, **arguments)


def make(method="VideoSAUR", boxes=False, keys=True, depth=2, iterations=(3, 2), width=WIDTH, num_heads=3, **options):
    """A method whose transformers are that deep, with so many iterations in the first frame and in later ones."""
    torch.manual_seed(0)
    backbone = tiny_backbone(width, depth=depth, num_heads=num_heads)
    code_dim = CODE_DIM if method == "VVOSmdT" else 0
    output_dim = code_dim + (width if options.get("reconstruct", True) else 0) + PLACES
    parts = {
        "backbone": backbone,
        "projection": MLP([width, 2 * width, DIM], norm=True, activation="relu"),
        "initializer": BoxMLP(DIM) if boxes else SharedGaussian(4, DIM, std=1.0),
        "slot_attention": attention(first_iterations=iterations[0], num_iterations=iterations[1]),
        "predictor": PreNormBlock(DIM),
        "decoder": SlotMixer(backbone.grid, [DIM, *[64] * depth, output_dim], num_layers=depth),
        "keys": keys,
    }
    if method == "VideoSAUR":
        return VideoSAUR(**parts, **options)
    quantizer = ProjectedCodebook(64, CODE_DIM, 64, 2.35)
    return VVOSmdT(**parts, tokenizer=Tokenizer(FeatureEncoder(width, CODE_DIM), quantizer, None), **options)


def loss_of(output):
    """The method's loss."""
    if "quantized" in output:
        pairs = [("quantized_reconstruction", "quantized"), ("feature_reconstruction", "feature")]
    else:
        pairs = [("reconstruction", "feature")]
    similarity = TemporalSimilarity("output.similarity", "output.key" if "key" in output else "output.feature", 0.1)
    return sum(functional.mse_loss(output[a], output[b]) for a, b in pairs) + similarity({}, output)


@pytest.mark.parity
def test_the_recurrence_equals_the_reference(golden):
    """Three frames: three iterations, then two, and the predictor with the published scale."""
    arrays = np.load(golden / "beyond" / "videosaur_recurrence.npz")
    module, predictor = attention(8, input_dim=10), PreNormBlock(8, 4, published_scale=True)
    names = {"norm_tokens": "ln_in", "norm_slots": "ln_slot"}
    found = {f"{ours}.weight": f"{theirs}.g" for ours, theirs in names.items()}
    found |= {f"{ours}.bias": f"{theirs}.b" for ours, theirs in names.items()}
    found |= {"to_query.weight": "q", "to_key.weight": "k", "to_value.weight": "v"}
    for letters in ("ih", "hh"):
        found |= {f"gru.weight_{letters}": f"gru_{letters}", f"gru.bias_{letters}": f"gru_{letters}.b"}
    module.load_state_dict({ours: torch.from_numpy(arrays[f"w/{theirs}"]) for ours, theirs in found.items()})
    load_block(predictor, arrays, "w/pred")
    feature = torch.from_numpy(arrays["feat"]).transpose(2, 3)[..., None]  # b t c n 1
    initial = torch.from_numpy(arrays["init"])
    with torch.no_grad():
        slots, masks = group_frames(feature, torch.nn.Identity(), initial, module, predictor)
        predicted = torch.stack([predictor(frame) for frame in slots.unbind(1)], dim=1)
    for name, value in {"slots": slots, "masks": masks.flatten(3), "pred": predicted}.items():
        torch.testing.assert_close(value, torch.from_numpy(arrays[name]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_shapes_and_sums(method):
    output = make(method)(**{"video": batch()["video"]})
    shapes = {
        "feature": (WIDTH, 4, 4),
        "key": (WIDTH, 4, 4),
        "slots": (4, DIM),
        "attention": (4, 4, 4),
        "mask": (4, 4, 4),
        "similarity": (PLACES, 4, 4),
    }
    if method == "VVOSmdT":
        shapes |= {"quantized_reconstruction": (CODE_DIM, 4, 4), "feature_reconstruction": (WIDTH, 4, 4)}
        shapes |= {"quantized": (CODE_DIM, 4, 4), "code": (4, 4)}
    else:
        shapes["reconstruction"] = (WIDTH, 4, 4)
    assert {name: tuple(value.shape[2:]) for name, value in output.items()} == shapes
    for name in ("attention", "mask"):
        torch.testing.assert_close(output[name].sum(dim=2), torch.ones(2, FRAMES, 4, 4))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("boxes", [False, True])
def test_gradients(method, boxes):
    model = make(method, boxes).train()
    inputs = batch() if boxes else {"video": batch()["video"]}
    loss_of(model(**inputs)).backward()
    blind = ("to_key.bias", "norm_key.bias")  # shift all logits of a query alike, which a softmax does not see
    for name, parameter in model.named_parameters():
        if name.startswith(("backbone.", "tokenizer.")):
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0 or name.endswith(blind), name


def test_without_codes_smdt_is_videosaur():
    smdt, videosaur = make("VVOSmdT", boxes=True).eval(), make("VideoSAUR", boxes=True).eval()
    state = {name: value for name, value in smdt.state_dict().items() if not name.startswith("tokenizer.")}
    for name in ("weight", "bias"):
        state[f"decoder.renderer.layers.2.{name}"] = state[f"decoder.renderer.layers.2.{name}"][CODE_DIM:]
    videosaur.load_state_dict(state)
    output, expected = smdt(**batch()), videosaur(**batch())
    output["reconstruction"] = output.pop("feature_reconstruction")
    for name in ("code", "quantized", "quantized_reconstruction"):
        output.pop(name)
    check_close(output, expected)


def test_similarity_only_and_features_in_place_of_keys():
    model = make(reconstruct=False, keys=False)
    output = model(video=batch()["video"])
    assert output["reconstruction"].shape[2] == 0 and "key" not in output
    feature = output["feature"]
    assert model(feature=feature)["similarity"].shape == (2, FRAMES, PLACES, 4, 4)


def test_later_frames_do_not_change_earlier_ones():
    model, inputs = make(boxes=True).eval(), batch()
    output = model(**inputs)
    shorter = model(**{key: value[:, :2] for key, value in inputs.items()})
    check_close(shorter, {key: value[:, :2] for key, value in output.items()})


def test_keys_are_those_of_the_last_attention():
    backbone, image = tiny_backbone(), torch.randn(2, 3, 56, 56)
    feature, key = features_and_keys(backbone, image)
    torch.testing.assert_close(feature, backbone(image))
    block = backbone.model.blocks[-1]
    tokens = backbone.model.forward_intermediates(image, indices=[0], output_fmt="NLC", intermediates_only=True)[0]
    tokens = torch.cat([torch.zeros(2, 1, WIDTH), tokens], dim=1)  # the class token's key is not asked for
    expected = functional.linear(block.norm1(tokens), block.attn.qkv.weight, block.attn.qkv.bias)[:, 1:, WIDTH:-WIDTH]
    torch.testing.assert_close(key.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)
    assert not block.attn.qkv._forward_hooks


def test_what_does_not_fit_is_named():
    convolutional = Backbone("timm", "tf_efficientnet_lite0", [64, 64], level=2, pretrained=False)
    width, places = convolutional.dim, convolutional.grid[0] * convolutional.grid[1]
    build = partial(
        VideoSAUR,
        convolutional,
        MLP([width, DIM]),
        SharedGaussian(4, DIM),
        attention(),
        PreNormBlock(DIM),
    )
    decoder = SlotMixer(convolutional.grid, [DIM, width + places])
    with pytest.raises(ValueError, match="keys: True needs a vision transformer"):
        build(decoder, keys=True)
    with pytest.raises(ValueError, match=r"features' plus similarity's width is .* but decoder's output width is"):
        build(decoder, reconstruct=False)
    model, video = make(boxes=True), batch()["video"]
    with pytest.raises(ValueError, match="box is missing"):
        model(video=video)
    with pytest.raises(ValueError, match="video is missing: keys are no part of a cached feature"):
        model(feature=torch.randn(2, FRAMES, WIDTH, 4, 4))
    with pytest.raises(ValueError, match="first_iterations is at least 1"):
        attention(first_iterations=0)
    with pytest.raises(ValueError, match="std must be positive"):
        SharedGaussian(4, DIM, std=0.0)


@pytest.mark.parametrize("name", ["movi_c", "movi_d", "movi_e"])
def test_full_size_configs_start_slots_from_nothing(name):
    for folder, method in (("videosaur", "videosaur"), ("vqdino", "vqdino_smdt")):
        cfg = config.load(REPOSITORY / f"config-{folder}" / f"{method}_r-{name}.py", ["num_slots=3"])
        for split in ("train", "eval"):
            assert cfg["dataset"][split]["keys"] == ["video", "segment"]
            assert cfg["dataset"][split]["file"].startswith(f"{name}/")
        assert cfg["model"]["initializer"]["num_slots"] == 3
        width = (256 if method == "vqdino_smdt" else 0) + 384 + 256
        assert cfg["model"]["decoder"]["dims"] == [64, 1024, 1024, 1024, 1024, width]
    stage1 = config.load(REPOSITORY / "config-vqdino" / f"vqdino-{name}-c256.py")
    assert stage1["callback"][0] == {"type": "ReconstructionTarget", "image": "batch.video"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["videosaur-shapes", "vvo_smdt-shapes"])
def test_the_demo_trains_from_the_command_line_and_its_loss_falls(name, tmp_path):
    moving_shapes.convert(tmp_path / "data" / "moving_shapes", num_train=6, num_val=2, size=64, frames=3)
    file = REPOSITORY / "config-demo" / f"{name}.py"
    arguments = ["--cfg_file", file, "--data_dir", tmp_path / "data", "--save_dir", tmp_path / "save", "--viz", 1]
    options = ["total_steps=24", "batch_size=2", "callback.1.every=4", "precision=no"]
    if name == "vvo_smdt-shapes":
        stage1 = REPOSITORY / "config-demo" / "vqshapes-video.py"
        first = ["--cfg_file", stage1, *arguments[2:6]]
        assert train.main([*map(str, first), "total_steps=4", "batch_size=2", "precision=no"]) == 0
    assert train.main([*map(str, arguments), *options]) == 0
    folder = tmp_path / "save" / name / "42"
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert losses[-1] < 0.9 * losses[0]
    scores = json.loads((folder / "eval" / "eval.json").read_text())["scores"]
    assert {"similarity", "ari", "mbo"} <= scores.keys() and (folder / "eval" / "pictures.png").exists()
