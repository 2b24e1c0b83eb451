from . import (
    callback,
    checkpoint,
    distillation,
    log,
    loop,
    loss,
    metric,
    optimizer,
    path,
    perceptual,
    protocol,
    save,
    schedule,
    similarity,
)

__all__ = [
    "callback", "checkpoint", "distillation", "log", "loop", "loss", "metric", "optimizer", "path", "perceptual",
    "protocol", "save", "schedule", "similarity",
]  # fmt: skip
