"""Scores wait for their device a few times per batch, however many images it holds."""

from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode

from object_centric_bench.learn.metric import Average, Segmentation

# what makes Python wait for a GPU: numbers and copies that leave it, and results whose size only the data tell
WAITS = {
    "item", "tolist", "cpu", "nonzero", "argwhere", "masked_select", "unique", "bincount", "is_nonzero", "equal",
    "allclose", "__bool__", "__int__", "__float__", "__index__", "__contains__",
}  # fmt: skip


class CountWaits(TorchFunctionMode):
    """Counts calls by name, of functions and of methods."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        name = getattr(function, "__name__", str(function))
        if name in WAITS:
            self.calls[name] += 1
        elif name in ("__getitem__", "__setitem__") and self.picks(arguments[1]):
            self.calls["picking by a mask"] += 1
        elif name == "to" and "cpu" in (*arguments[1:], *(keywords or {}).values()):
            self.calls["to cpu"] += 1
        return function(*arguments, **(keywords or {}))

    @staticmethod
    def picks(index):
        parts = index if isinstance(index, tuple) else (index,)
        return any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)


def count(samples, labels, function):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randint(0, labels, (samples, 8, 8), generator=generator) for _ in range(2)]
    with CountWaits() as mode:
        function({"segment": maps[0], "ignore": maps[0] == 1}, {"segment": maps[1]})
    return mode.calls


@pytest.mark.parametrize("labels", [5, 3000], ids=["ids themselves", "ranks of ids"])
@pytest.mark.parametrize("ignore", [None, "batch.ignore"])
def test_waits_do_not_grow_with_the_batch(labels, ignore):
    metric = Segmentation(ignore=ignore)
    few, many = (count(samples, labels, metric) for samples in (2, 40))
    assert few == many and few["bincount"] == 1
    # the bounds of the ids, the counting, and a copy for each of mIoU and mIoU_fg; ranks are wanted of both maps
    assert sum(few.values()) <= (4 if labels == 5 else 10), few


def test_averaging_does_not_wait():
    average = Average()
    scores = {"ari": (torch.rand(7), torch.ones(7, dtype=torch.bool)), "frames": (torch.rand(7), torch.rand(7))}
    with CountWaits() as mode:
        average.update(scores)
        average.update(scores)
    assert not mode.calls
    with CountWaits() as mode:
        average.result()
    assert mode.calls == {"tolist": 1}


@pytest.mark.parametrize(
    "function",
    [lambda x: x[x > 0], lambda x: x.max().item(), lambda x: bool(x.any()), lambda x: x.to("cpu"), torch.unique],
)
def test_the_counter_sees(function):
    with CountWaits() as mode:
        function(torch.arange(3))
    assert sum(mode.calls.values()) == 1
