"""A run small enough to follow by hand: a linear model on numbers."""

import pytest
import torch
from torch import nn

from object_centric_bench.engine import make_accelerator
from object_centric_bench.learn.log import Log
from object_centric_bench.learn.optimizer import Adam
from object_centric_bench.learn.run import Run
from object_centric_bench.learn.save import Save
from object_centric_bench.learn.schedule import LinearCosine


class Toy(nn.Module):
    """Predicts a number per image; dropout makes training depend on the random generator."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(4, 4).requires_grad_(False)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(4, 1)
        self.gain = 1.0  # a schedule may drive it

    def forward(self, image):
        return {"value": self.gain * self.head(self.dropout(self.backbone(image)))[:, 0]}


def squared_error(batch, output):
    return ((output["value"] - batch["image"].sum(1)) ** 2).mean()


def above(batch, output):
    """A metric that half of the images have no value for."""
    return {"above": ((batch["image"][:, 0] > 0).double(), batch["index"] % 2 == 0)}


def data(index):
    generator = torch.Generator().manual_seed(int(index))
    return torch.randn(4, generator=generator)


def make_batch(indices):
    return {"image": torch.stack([data(i) for i in indices]), "index": torch.tensor(indices)}


@pytest.fixture
def make_run(tmp_path):
    """Return a function that builds a fresh run; equal arguments give equal runs."""

    def make(folder="run", total_steps=12, eval_every=4, loss=squared_error, callbacks=None, metric=(above,)):
        torch.manual_seed(0)
        model = Toy()
        accelerator = make_accelerator("cpu", "no")
        optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model, optimizer = accelerator.prepare(model, optimizer)
        path = tmp_path / folder
        path.mkdir(exist_ok=True)

        def set_rate(factor):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * factor

        schedule = LinearCosine(total_steps=total_steps, warmup_steps=2, start=0.0, peak=1.0, final=0.1)
        if callbacks is None:
            callbacks = [Log(every=2, tensorboard=False), Save(best="error", higher=False)]
        return Run(
            model=model,
            loss={"error": loss},
            metric=list(metric),
            optimizer=optimizer,
            accelerator=accelerator,
            callbacks=callbacks,
            batch_transforms=[],
            train_batches=lambda start: (make_batch([3 * s, 3 * s + 1, 3 * s + 2]) for s in range(start, total_steps)),
            eval_batches=lambda: iter([make_batch([100, 101, 102]), make_batch([103])]),
            setters={"optimizer.lr_factor": (set_rate, schedule)},
            total_steps=total_steps,
            eval_every=eval_every,
            metric_every=5,
            max_grad_norm=1.0,
            seed=7,
            cfg={"total_steps": total_steps},
            eval_length=2,
            source_id=lambda index: f"picture-{index}",
            inputs=("image",),
            folder=path,
        )

    return make
