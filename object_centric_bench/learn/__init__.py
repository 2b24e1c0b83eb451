from . import callback, checkpoint, distillation, loop, loss, metric, optimizer, path, perceptual, schedule, similarity

__all__ = [
    "callback", "checkpoint", "distillation", "loop", "loss", "metric", "optimizer", "path", "perceptual", "schedule",
    "similarity",
]  # fmt: skip
