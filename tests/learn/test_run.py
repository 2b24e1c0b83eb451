"""The precision in which a model's outputs reach the losses."""

import pytest
import torch
from torch import nn

from object_centric_bench.engine import make_accelerator, prepare
from object_centric_bench.learn.loss import MSE, CrossEntropy
from object_centric_bench.learn.run import compute_losses, forward


class Twins(nn.Module):
    """Gives logits of 5 classes and features on a grid."""

    def __init__(self):
        super().__init__()
        self.head, self.other = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 3, 1)

    def forward(self, image):
        return {"logits": self.head(image), "feature": self.other(image)}


@pytest.fixture
def halved(make_run):
    """A run in bf16 with a loss that reads logits as they are, and one that does not."""
    run = make_run()
    run.accelerator = make_accelerator("cpu", "bf16")
    model = Twins()
    run.model, run.optimizer = prepare(run.accelerator, model, torch.optim.Adam(model.parameters()))
    run.loss = {
        "code": CrossEntropy("output.logits", "batch.code"),
        "feature": MSE("output.feature", "batch.image"),
    }
    run.callbacks = []
    return run


def make_batch():
    return {"image": torch.randn(2, 3, 4, 4), "code": torch.randint(5, (2, 4, 4))}


def test_only_outputs_that_a_loss_reads_in_half_precision_stay_so(halved):
    forward(halved, make_batch())
    assert halved.output["logits"].dtype == torch.bfloat16
    assert halved.output["feature"].dtype == torch.float32
    losses = compute_losses(halved)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    del halved.loss["code"]
    forward(halved, make_batch())
    assert halved.output["logits"].dtype == torch.float32


def test_losses_and_gradients_are_those_of_outputs_in_full_precision(halved):
    batch = make_batch()

    def gradients():
        halved.optimizer.zero_grad()
        forward(halved, batch)
        losses = compute_losses(halved)
        halved.accelerator.backward(sum(losses.values()))
        return [float(loss.detach()) for loss in losses.values()], [p.grad.clone() for p in halved.model.parameters()]

    as_they_are = gradients()
    del halved.loss["code"].reads_half
    raised = gradients()
    assert as_they_are[0] == pytest.approx(raised[0], rel=1e-6)
    for mine, theirs in zip(as_they_are[1], raised[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2**-7, atol=2**-9)
