"""Frozen parts keep nothing for a backward pass that never comes."""

import pytest
import torch

from object_centric_bench.learn.optimizer import train_mode

from . import videos

METHODS = ["DINOSAUR", "SLATE", "SlotDiffusion", "VVOTfd", "VVOMlp", "VVODfz", "STEVE", "VVOTfdT"]


@pytest.mark.parametrize("method", METHODS)
def test_no_activation_of_frozen_parts_is_kept(method):
    model = videos.make(method)
    train_mode(model)
    inside, kept = [], {"frozen": 0, "trained": 0}
    for name in ("backbone", "tokenizer"):
        part = getattr(model, name, None)
        if part is not None:
            part.register_forward_pre_hook(lambda *_: inside.append(True))
            part.register_forward_hook(lambda *_: inside.clear())

    def keep(tensor):
        kept["frozen" if inside else "trained"] += tensor.numel()
        return tensor

    batch = videos.batch()
    if method not in ("STEVE", "VVOTfdT"):
        batch = {"image": batch["video"][:, 0]}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(**batch)
    assert kept["frozen"] == 0
    assert kept["trained"] > 1000
    assert not output["feature"].requires_grad
