"""`python -m object_centric_bench.model.published`: published files become safetensors that our models load."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from object_centric_bench.model import published
from tests.conftest import GOLDEN, REPOSITORY

from .reference import Reference
from .sizes import build_method, tiny_backbone
from .test_published import theirs

MODELS = sorted((GOLDEN / "models").glob("*.json"))


@pytest.mark.parity
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_converted_file_loads_strictly_and_gives_the_references_outputs(path, tmp_path, capsys):
    reference = Reference(path)
    file, converted = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    torch.save(reference.state, file)
    assert published.main([str(file), str(converted)]) == 0
    assert f"theirs.pth: {reference.method}" in capsys.readouterr().out
    model = reference.build()
    expected = model(**reference.inputs)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.load_state_dict(load_file(converted))
    output = model(**reference.inputs)
    for (name, ours, _), (_, wanted, _) in zip(
        reference.output_pairs(output), reference.output_pairs(expected), strict=True
    ):
        assert torch.equal(ours, wanted), name


@pytest.fixture(scope="module")
def state():
    return theirs(build_method("DINOSAUR", tiny_backbone()))


def error_of(capsys, *arguments):
    assert published.main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    return text


def test_runs_as_a_module(state, tmp_path):
    torch.save(state, tmp_path / "in.pth")
    command = [sys.executable, "-m", "object_centric_bench.model.published", "in.pth", "out.safetensors"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "in.pth: DINOSAUR"
    assert lines[-1] == "wrote out.safetensors"
    assert any(line.split()[:3] == ["slot_attention", "17", "tensors"] for line in lines)


def test_nothing_is_replaced_without_force(state, tmp_path, capsys):
    file, converted = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save(state, file)
    converted.write_text("precious")
    assert "add --force" in error_of(capsys, file, converted)
    assert converted.read_text() == "precious"
    assert published.main([str(file), str(converted), "--force"]) == 0
    assert len(load_file(converted)) == len(state)
    assert {path.name for path in tmp_path.iterdir()} == {"in.pth", "out.safetensors"}


def test_a_failure_while_writing_leaves_the_old_file(state, tmp_path, capsys, monkeypatch):
    file, converted = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save(state, file)
    converted.write_text("precious")

    def fail(tensors, path):
        path.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(published, "save_tensors", fail)
    assert "cannot be written: no space left" in error_of(capsys, file, converted, "--force")
    assert converted.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"in.pth", "out.safetensors"}


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


def test_what_is_no_checkpoint_is_refused(state, tmp_path, capsys):
    file, converted = tmp_path / "in.pth", tmp_path / "out.safetensors"
    assert "no file" in error_of(capsys, file, converted)
    file.write_text("hello")
    assert "in.pth" in error_of(capsys, file, converted)
    file.write_bytes(b"")
    assert "in.pth" in error_of(capsys, file, converted)
    torch.save([1, 2], file)
    assert "holds no named tensors but a list" in error_of(capsys, file, converted)
    torch.save({"model": state, "epoch": 3}, file)
    assert "no table of named tensors, but 'model' (dict), 'epoch' (int)" in error_of(capsys, file, converted)
    torch.save(state | {"m.evil": Evil()}, file)
    assert "holds posix.system, and reading that would run code" in error_of(capsys, file, converted)
    torch.save(state, file)
    file.write_bytes(file.read_bytes()[:-2000])
    assert "in.pth" in error_of(capsys, file, converted)
    assert "must end with .safetensors" in error_of(capsys, file, tmp_path / "out.pth")
    torch.save(state, file)
    assert "cannot be written" in error_of(capsys, file, tmp_path / "nowhere" / "out.safetensors")
    assert not converted.exists()


def test_names_that_are_unknown_or_missing_are_listed(state, tmp_path, capsys):
    file, converted = tmp_path / "in.pth", tmp_path / "out.safetensors"
    damaged = dict(state) | {"m.decode.colour": torch.zeros(2), "m.other.weight": torch.zeros(2)}
    del damaged["m.aggregat.proj_q.weight"], damaged["m.decode.backbone.2.weight"], damaged["m.decode.backbone.2.bias"]
    torch.save(damaged, file)
    text = error_of(capsys, file, converted)
    assert "a checkpoint of DINOSAUR; 4 names do not fit" in text
    assert "unknown: m.decode.colour\nunknown: m.other.weight\n" in text
    assert "missing: slot_attention.to_query.*" in text
    assert "missing: decoder.layers.1.*" in text
    torch.save({"m.a": torch.zeros(2)}, file)
    assert "no method known here" in error_of(capsys, file, converted)
    torch.save({"backbone.a": torch.zeros(2)}, file)
    assert "names do not all start with 'm.'" in error_of(capsys, file, converted)
