"""Libraries that only some parts of models need: looked at where such a part is built, not at every start."""

from importlib import metadata

from torch.torch_version import TorchVersion

OLDEST = {"diffusers": "0.32", "timm": "1.0.24", "transformers": "4.48"}  # as in requirements.txt; a test compares


def require_library(name: str) -> None:
    """Check that a library is installed and new enough, before it is imported: old ones fail later, and obscurely.

    Args:
        name: a key of `OLDEST`.

    Raises:
        ValueError: it is missing or too old; the text names the installed and the needed version.
    """
    install = f"run `pip install --upgrade '{name}>={OLDEST[name]}'`"
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise ValueError(f"{name} is not installed, {OLDEST[name]} or later is needed: {install}") from None
    if TorchVersion(installed) < OLDEST[name]:
        raise ValueError(f"{name} {installed} is installed, {OLDEST[name]} or later is needed: {install}")
