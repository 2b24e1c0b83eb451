"""Where vision models come from: timm's and Hugging Face transformers', built with their weights, asked by level."""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from object_centric_bench.model.library import require_library
from object_centric_bench.model.weights import (
    PACKAGED,
    Weights,
    WeightsError,
    find_on_hub,
    mark,
    read_file,
    read_packaged,
    why_no_hub,
)


def build_timm(
    name: str,
    resolution: list[int],
    levels: list[int],
    pretrained: bool,
    weights: str | None,
    options: dict | None,
) -> tuple[nn.Module, list[int], list[tuple[int, float]]]:
    """Build a network of timm without what its levels do not need.

    Args:
        name: timm's.
        resolution: [h, w] in pixels.
        levels: blocks or levels whose features are wanted, from 0, negative from the end.
        pretrained, weights, options: see `backbone.Backbone`.

    Returns:
        The network, its levels counted from 0, and (channels, reduction) of each of those.

    Raises:
        WeightsError: pretrained weights cannot be had or do not fit.
        ValueError: an unknown model or level, a resolution that is no multiple of the patch size, or timm is too old.
    """
    require_library("timm")
    import timm

    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        raise ValueError(f"timm has no model {name!r}; similar: {', '.join(near) or 'none'}")
    arguments = dict(options or {})
    record = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if record is not None and record.fixed_input_size:  # a table of positions: resampled once, when weights are loaded
        arguments.setdefault("img_size", tuple(resolution))
    model: Any
    if pretrained:
        state = _find_timm_weights(name, record, weights)
        try:
            model = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)}, **arguments
            )
        except (RuntimeError, KeyError) as error:
            raise WeightsError(f"weights {weights or name!r} do not fit {name} with {arguments}: {error}") from error
        model.pretrained_cfg["state_dict"] = None  # would keep a second copy alive
        mark(model, state.file)
    else:
        model = timm.create_model(name, pretrained=False, **arguments)
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"timm model {name!r} gives no features by level (it has no forward_intermediates)")
    available = model.feature_info
    levels = [_absolute(level, len(available), name) for level in levels]
    info = [(available[level]["num_chs"], available[level]["reduction"]) for level in levels]
    patch = getattr(model, "patch_embed", None)
    if patch is not None:
        _require_patches(name, resolution, getattr(patch, "patch_size", info[0][1]))
    model.prune_intermediate_layers(levels, prune_norm=False, prune_head=True)  # drops what no level needs
    return model, levels, info


def _find_timm_weights(name: str, record: Any, weights: str | None) -> Weights:
    """Return the weights of a timm model by timm's or the authors' names."""
    import timm

    if weights in PACKAGED:
        with torch.device("meta"):
            expected = {key: value.shape for key, value in timm.create_model(name).state_dict().items()}
        return read_packaged(weights, name, expected)
    if weights is not None:
        return read_file(weights)
    if record is None or not record.hf_hub_id:
        raise WeightsError(f"timm has no pretrained weights for {name!r}; give a file as `weights`")
    files = [record.hf_hub_filename] if record.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    repository = record.hf_hub_id if "/" in record.hf_hub_id else f"timm/{record.hf_hub_id}"
    return read_file(find_on_hub(repository, files, f"timm model {name!r}"))


def build_transformers(
    name: str,
    resolution: list[int],
    levels: list[int],
    pretrained: bool,
    weights: str | None,
    options: dict | None,
) -> tuple[nn.Module, list[int], list[tuple[int, float]]]:
    """Build a network of Hugging Face transformers; arguments, results and errors as for `build_timm`."""
    require_library("transformers")
    import transformers

    model: Any
    if pretrained and weights is None:
        model = _load_transformers(name, options or {})
    else:
        if name not in transformers.CONFIG_MAPPING:
            raise ValueError(f"transformers has no model type {name!r}, such as 'dinov2' or 'vit'")
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(name, **(options or {})))
    if weights is not None:
        state = read_file(weights)
        try:  # knows the names of earlier versions, unlike load_state_dict
            given = dict(config=model.config, state_dict=state, output_loading_info=True)
            model, loading = type(model).from_pretrained(None, **given)
        except RuntimeError as error:
            raise WeightsError(f"weights {weights!r} do not fit {name} with {options}: {error}") from error
        _require_complete(model, loading, weights)
        mark(model, state.file)
    elif pretrained:
        mark(model, f"{name} (revision {getattr(model.config, '_commit_hash', None) or 'local'})")
    model.eval()
    patch = getattr(model.config, "patch_size", None)
    if patch is not None:
        _require_patches(name, resolution, patch)
        _resample_positions(model, [side // size for side, size in zip(resolution, _pair(patch), strict=True)])
    depth = getattr(model.config, "num_hidden_layers", None) or len(getattr(model.config, "depths", [])) or 1
    levels = [_absolute(level, depth, name) for level in levels]
    with torch.no_grad():
        image = torch.zeros(1, 3, *resolution, device=next(model.parameters()).device)
        shapes = [state.shape for state in transformers_states(model, image, levels, resolution)]
    return model, levels, [(shape[1], resolution[0] / shape[2]) for shape in shapes]


def _load_transformers(name: str, options: dict) -> nn.Module:
    """Load a model from a local folder, the cache or the hub."""
    from huggingface_hub import constants
    from transformers import AutoModel

    try:
        found: Any = AutoModel.from_pretrained(name, local_files_only=True, output_loading_info=True, **options)
        return _require_complete(found[0], found[1], name)
    except OSError:
        reason = why_no_hub()
    if reason is None:
        try:
            found = AutoModel.from_pretrained(name, output_loading_info=True, **options)
            return _require_complete(found[0], found[1], name)
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
    raise WeightsError(
        f"no weights for transformers model {name!r}: it is neither a local folder nor in the Hugging Face cache "
        f"({constants.HF_HUB_CACHE}), and {reason}. Give a local folder as `name`, a file as `weights` with the model "
        f"type as `name`, or fill that cache on a machine that reaches the hub; `pretrained: False` starts from random "
        f"weights"
    )


def _require_complete(model: nn.Module, loading: dict, source: str) -> nn.Module:
    """Return the model if the weights filled all of it but its pooler, which no feature passes."""
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise WeightsError(f"weights {source!r} do not fit: {', '.join(missing)} missing")
    return model


def transformers_states(model: nn.Module, image: Tensor, levels: list[int], resolution: list[int]) -> list[Tensor]:
    """Run a transformers model on images.

    Args:
        model: from `build_transformers`.
        image: (b 3 h w) float, at the resolution.
        levels: counted from 0.
        resolution: [h, w] in pixels.

    Returns:
        Features (b c h w) float of each level, the last one as the model hands it out, the others normed alike.
    """
    arguments = {}
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        arguments["interpolate_pos_encoding"] = True  # does nothing where the table fits
    output = model(image, output_hidden_states=True, **arguments)
    depth = len(output.hidden_states) - 1  # the first is the embedding
    norm = getattr(model, "layernorm", nn.Identity())
    states = [
        output.last_hidden_state if level == depth - 1 else norm(output.hidden_states[level + 1]) for level in levels
    ]
    if states[0].ndim == 4:
        return states
    height, width = (side // size for side, size in zip(resolution, _pair(model.config.patch_size), strict=True))
    states = [state[:, state.shape[1] - height * width :] for state in states]  # class and register tokens come first
    return [state.unflatten(1, (height, width)).movedim(-1, 1) for state in states]


def _resample_positions(model: nn.Module, grid: list[int]) -> None:
    """Resample a table of positions once, as timm does (bicubic, antialiased); other grids than square ones are left
    to the model, which resamples in every forward, without antialiasing."""
    require_library("timm")
    from timm.layers import resample_abs_pos_embed

    embeddings = getattr(model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if not isinstance(table, nn.Parameter) or table.ndim != 3 or grid[0] != grid[1]:
        return
    num_prefix = table.shape[1] - math.isqrt(table.shape[1]) ** 2
    if table.shape[1] - num_prefix == grid[0] * grid[1]:
        return
    resampled = resample_abs_pos_embed(table.detach(), new_size=grid, num_prefix_tokens=num_prefix)
    embeddings.position_embeddings = nn.Parameter(resampled)


def _absolute(level: int, depth: int, name: str) -> int:
    if not -depth <= level < depth:
        raise ValueError(f"{name} has levels 0 to {depth - 1} (or negative, from the end), got {level}")
    return level % depth


def _require_patches(name: str, resolution: list[int], patch: int | tuple[int, int]) -> None:
    if any(side % size for side, size in zip(resolution, _pair(patch), strict=True)):
        raise ValueError(
            f"resolution {list(resolution)} is no multiple of the patch size {list(_pair(patch))} of {name}"
        )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
