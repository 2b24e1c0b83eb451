from . import callback, checkpoint, loop, loss, metric, optimizer, path, schedule

__all__ = ["callback", "checkpoint", "loop", "loss", "metric", "optimizer", "path", "schedule"]
