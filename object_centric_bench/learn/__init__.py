from . import callback, checkpoint, loop, loss, metric, optimizer, path, perceptual, schedule

__all__ = ["callback", "checkpoint", "loop", "loss", "metric", "optimizer", "path", "perceptual", "schedule"]
