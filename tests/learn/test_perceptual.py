"""LPIPS against the authors' package, with a random AlexNet: its trained one is too large to keep."""

import lpips
import pytest
import torch

from object_centric_bench.learn import perceptual
from object_centric_bench.learn.perceptual import LPIPS, PerceptualWeightsError
from object_centric_bench.registry import ConfigError, build

PATHS = {"prediction": "output.reconstruction", "target": "batch.target"}


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()


@pytest.fixture(scope="module")
def alexnet_file(theirs, tmp_path_factory):
    names = (name.split(".", 1)[1] for name in theirs.net.state_dict())  # slice2.3.weight -> 3.weight
    state = {f"features.{name}": value for name, value in zip(names, theirs.net.state_dict().values(), strict=True)}
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({**state, "classifier.1.weight": torch.zeros(2)}, path)
    return str(path)


def pictures(*shape):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for _ in range(2)]


def test_value_and_gradient_are_those_of_the_authors(theirs, alexnet_file):
    made, target = (picture.requires_grad_() for picture in pictures(3, 3, 40, 33))
    term = LPIPS(**PATHS, weight=0.5, weights=alexnet_file, rescale=True)
    loss = term({"target": target}, {"reconstruction": made})
    assert loss.shape == ()
    expected = 0.5 * theirs(target, made).mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(expected, made)
    loss.backward()
    torch.testing.assert_close(made.grad, gradient)
    assert target.grad is None


def test_nothing_of_it_is_trained(alexnet_file):
    network = LPIPS(**PATHS, weights=alexnet_file).network
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_it_moves_like_a_module():
    term = LPIPS(**PATHS, pretrained=False).to("meta")
    assert {tensor.device.type for tensor in (*term.parameters(), *term.buffers())} == {"meta"}


def test_without_rescaling_pictures_are_taken_as_the_network_was_trained_on(theirs, alexnet_file):
    """The default: ImageNet-normalised pictures are what the authors' network makes of theirs in [-1, 1]."""
    made, target = pictures(2, 3, 32, 32)
    loss = LPIPS(**PATHS, weights=alexnet_file)({"target": target}, {"reconstruction": made})
    shift, scale = theirs.scaling_layer.shift, theirs.scaling_layer.scale
    torch.testing.assert_close(loss, theirs(target * scale + shift, made * scale + shift).mean())


def test_a_video_is_its_frames():
    made, target = pictures(2, 3, 3, 32, 32)
    loss = LPIPS(**PATHS, pretrained=False)
    video = loss({"target": target}, {"reconstruction": made})
    frames = [loss({"target": target[:, t]}, {"reconstruction": made[:, t]}) for t in range(3)]
    torch.testing.assert_close(video, sum(frames) / 3)


def test_equal_pictures_have_no_distance_and_dead_places_no_gradient():
    """Dead: every channel is 0 after the ReLU, where a norm has no derivative."""
    loss = LPIPS(**PATHS, pretrained=False)
    for conv in loss.network.convs:
        torch.nn.init.constant_(conv.bias, -1e3)
    made, target = pictures(1, 3, 32, 32)
    made.requires_grad_()
    value = loss({"target": target}, {"reconstruction": made})
    value.backward()
    assert value == 0
    assert torch.equal(made.grad, torch.zeros_like(made))
    loss = LPIPS(**PATHS, pretrained=False)
    assert loss({"target": target}, {"reconstruction": target}) == 0
    assert loss({"target": target}, {"reconstruction": made}) > 0


def test_float32_under_autocast():
    made, target = pictures(1, 3, 32, 32)
    loss = LPIPS(**PATHS, pretrained=False)
    expected = loss({"target": target}, {"reconstruction": made.bfloat16().float()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss({"target": target}, {"reconstruction": made.bfloat16()}), expected)


@pytest.mark.parametrize(
    ("made", "target"),
    [((1, 3, 32, 32), (2, 3, 32, 32)), ((1, 1, 32, 32),) * 2, ((1, 3, 30, 32),) * 2, ((3, 32, 32),) * 2],
)
def test_pictures_that_do_not_fit(made, target):
    with pytest.raises(ValueError, match=r"output\.reconstruction is \(.*31 pixels or more"):
        LPIPS(**PATHS, pretrained=False)({"target": torch.zeros(target)}, {"reconstruction": torch.zeros(made)})


def test_missing_weights_are_said_with_their_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(perceptual, "ALEXNET_URL", "http://127.0.0.1:9/alexnet-owt-7be5be79.pth")
    with pytest.raises(ConfigError, match=r"loss\.lpips: no AlexNet for LPIPS: .* give the file as `weights`"):
        build(dict(type="LPIPS", **PATHS), "loss.lpips")
    with pytest.raises(PerceptualWeightsError, match="no weights file"):
        LPIPS(**PATHS, weights=str(tmp_path / "none.pth"))
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    with pytest.raises(PerceptualWeightsError, match=r"broken\.pth cannot be read as weights"):
        LPIPS(**PATHS, weights=str(tmp_path / "broken.pth"))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(PerceptualWeightsError, match="do not fit"):
        LPIPS(**PATHS, weights=str(tmp_path / "other.pth"))
    monkeypatch.setattr(perceptual, "HEADS_PACKAGE", "no_such_package")
    with pytest.raises(PerceptualWeightsError, match="pip install lpips"):
        perceptual.read_heads()
    with pytest.raises(ValueError, match="are given but pretrained is False"):
        LPIPS(**PATHS, pretrained=False, weights="alexnet.pth")
