"""The table at the start of a run: what is trained, and where weights come from."""

import torch
from safetensors.torch import save_file
from torch import nn

from object_centric_bench.files import file_hash
from object_centric_bench.model.summary import Row, summarize, table
from object_centric_bench.model.weights import mark

from .sizes import build_method, tiny_backbone


def test_every_part_with_its_weights(tmp_path):
    model = build_method("VVOTfd", tiny_backbone())
    model.backbone.requires_grad_(False)
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    mark(model.backbone.model, file)
    mark(model.tokenizer.quantizer, "a checkpoint")
    rows = {row.module: row for row in summarize(model)}
    parts = ["backbone", "projection", "initializer", "slot_attention"]
    assert list(rows) == [*parts, "tokenizer.encoder", "tokenizer.quantizer", "decoder"]
    assert rows["backbone"].origin == f"{file} (sha256 {file_hash(file)[:12]})"
    assert rows["backbone"].trained == rows["tokenizer.encoder"].trained == 0
    assert rows["tokenizer.quantizer"].origin == "a checkpoint" and rows["tokenizer.encoder"].origin == "random"
    assert rows["decoder"].trained == rows["decoder"].parameters
    assert sum(row.parameters for row in rows.values()) == sum(value.numel() for value in model.state_dict().values())


def test_a_whole_model_from_one_file_and_parts_of_several():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "b": nn.Linear(2, 2)})
    mark(model["a"][0], "one")
    assert [row.origin for row in summarize(model)] == ["one + random", "random"]
    mark(model, "all")
    assert [row.origin for row in summarize(model)] == ["all", "all"]


def test_text():
    text = table([Row("backbone", 1200, 0, "file"), Row("decoder", 30, 30, "random"), Row("x", 9, 4, "random")])
    assert text.splitlines() == [
        "module    parameters  trained  weights from",
        "backbone       1,200   frozen  file",
        "decoder           30      all  random",
        "x                  9        4  random",
        "sum            1,239       34",
    ]
