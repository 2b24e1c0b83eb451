"""Numbers of a run for Weights & Biases: off unless a config names a project, and without network if it is told so."""

import hashlib
from pathlib import Path

from ..registry import ConfigError


class WandbWriter:
    """Sends numbers, as TensorBoard's writer takes them, to a run of Weights & Biases.

    A resumed run goes on under the same identity. Whether anything leaves the machine is the environment's decision, as
    Weights & Biases documents it: with WANDB_MODE=offline all is kept in the run folder, for `wandb sync` later.

    Args:
        project: name of the project there.
        folder: of the run; `wandb/` in it gets the files.
        cfg: resolved config, shown beside the run.

    Raises:
        ConfigError: the package is missing, or it cannot be reached or logged in to.
    """

    def __init__(self, project: str, folder: Path, cfg: dict):
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("callback: Log.wandb is set, but wandb is not installed: pip install wandb") from error
        identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        name = f"{folder.parent.name}-{folder.name}"
        try:
            self.session = wandb.init(
                project=project, dir=folder, id=identity, name=name, resume="allow", config=cfg, reinit="create_new"
            )
        except wandb.errors.Error as error:
            raise ConfigError(f"callback: Log.wandb: {error}; WANDB_MODE=offline keeps all here") from error
        self.session.define_metric("step")
        self.session.define_metric("*", step_metric="step")

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Send one number."""
        self.session.log({name: value, "step": step})

    def close(self) -> None:
        """End the session; what is not sent yet is sent."""
        self.session.finish()
