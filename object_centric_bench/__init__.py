"""Object-centric learning: `load(run)` gives a trained model that finds objects in pictures and videos."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .prediction import Predictor


def load(path: "str | Path", cfg_file: "str | Path | None" = None, device: str = "auto") -> "Predictor":
    """Return a trained model; see `prediction.load`, which this imports, PyTorch with it, only when called."""
    from .prediction import load

    return load(path, cfg_file, device)
