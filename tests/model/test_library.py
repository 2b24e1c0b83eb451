import re

import pytest

from object_centric_bench.model import diffusion  # noqa: F401, registers its class
from object_centric_bench.model.backbone import Backbone  # noqa: F401
from object_centric_bench.model.library import OLDEST, require_library
from object_centric_bench.registry import ConfigError, build

from ..conftest import REPOSITORY

NODES = {  # of each library a part that needs it, tiny
    "timm": dict(type="Backbone", provider="timm", name="vit_tiny_patch16_224", resolution=[32, 32], pretrained=False),
    "transformers": dict(
        type="Backbone",
        provider="transformers",
        name="dinov2",
        resolution=[28, 28],
        pretrained=False,
        options=dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, patch_size=14, image_size=28),
    ),
    "diffusers": dict(type="DiffusionDecoder", grid=[4, 4], latent_dim=4, dim=8, widths=[32], num_heads=4),
}


@pytest.fixture
def installed(monkeypatch):
    """Return a function that lets a library have another version, or with None be missing."""
    from importlib import metadata

    real = metadata.version

    def pretend(library, version):
        def look_up(name):
            if name != library:
                return real(name)
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(metadata, "version", look_up)

    return pretend


@pytest.mark.parametrize(("library", "node"), NODES.items(), ids=[*NODES])
def test_a_library_that_is_too_old_is_named_with_both_versions(library, node, installed):
    build(node, "model.part")
    installed(library, "0.4.1")
    wanted = rf"^model\.part: {library} 0\.4\.1 is installed, {re.escape(OLDEST[library])} or later is needed: run"
    with pytest.raises(ConfigError, match=wanted):
        build(node, "model.part")


def test_a_missing_library_is_named(installed):
    installed("timm", None)
    with pytest.raises(ConfigError, match=r"^model: timm is not installed, 1\.0\.24 or later is needed: run `pip"):
        build(NODES["timm"], "model")


@pytest.mark.parametrize("version", ["1.0.24", "1.0.100", "1.1.0.dev0", "2.0"])
def test_versions_are_compared_as_numbers(version, installed):
    installed("timm", version)
    assert require_library("timm") is None


@pytest.mark.parametrize("version", ["1.0.9", "1.0.24.dev0", "0.40"])
def test_older_versions_are_refused(version, installed):
    installed("timm", version)
    with pytest.raises(ValueError, match="or later is needed"):
        require_library("timm")


def test_bounds_are_those_of_the_requirements():
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    bounds = dict(line.partition("  #")[0].split(">=") for line in lines if ">=" in line and not line.startswith("#"))
    assert {name: bounds[name] for name in OLDEST} == OLDEST
