"""Logging to Weights & Biases: off by default, without network where it is told so, clear where it is not installed."""

import builtins

import pytest

from object_centric_bench.learn.wandb_writer import WandbWriter
from object_centric_bench.recipe import learn
from object_centric_bench.registry import ConfigError


def test_it_is_off_unless_a_config_names_a_project():
    log = learn.reconstruction()["callback"][-2]
    assert log["type"] == "Log" and log["wandb"] is None


def test_a_missing_package_is_one_message(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "wandb":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="pip install wandb"):
        WandbWriter("project", tmp_path, {})


@pytest.mark.slow
def test_offline_all_is_kept_in_the_run_folder(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "dinosaur-shapes" / "42"
    folder.mkdir(parents=True)
    writer = WandbWriter("project", folder, {"optimizer": {"lr": 0.1}})
    writer.add_scalar("train/loss", 0.123456, 10)
    writer.close()
    wandb.teardown()  # as at the end of a process: closing a session does not wait for the service to write its file
    (kept,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    assert b"train/loss" in content and b"0.123456" in content and b"optimizer" in content
