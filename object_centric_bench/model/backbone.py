"""Vision models as feature extractors: any of timm's or Hugging Face transformers', behind one class."""

import inspect
import logging
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from object_centric_bench.model.freezing import Freezable, no_grad_if_frozen
from object_centric_bench.model.sizes import require_shape
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
from object_centric_bench.registry import register

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

log = logging.getLogger(__name__)


@register
class Backbone(Freezable):
    """A vision model that turns images into one map of features; frozen unless `trainable`.

    Vision transformers give the patch tokens of one block after the final norm, convolutional networks one or more
    of their levels. Several levels are resized to one grid and joined along the channels.

    Args:
        provider: "timm" or "transformers".
        name: the provider's model name; for transformers a hub name, a local folder, or (for random weights and for
            `weights`) a model type such as "dinov2", whose configuration `options` gives.
        resolution: [h, w] in pixels at which the model runs; images of another size are resized to it.
        level: block of a transformer or level of a convolutional network, from 0, negative from the end.
        pretrained: False starts from random weights.
        weights: a local file, or the name of packaged weights (`weights.PACKAGED`); None asks the hub and its cache.
        options: further arguments of the architecture, e.g. `embed_dim` and `depth`.
        grid: [h, w] of the feature map; None keeps that of the model, or that of the finest of several levels.
        interpolation: how an image is brought to `resolution`, never with antialiasing.
        final_norm: apply a transformer's final norm.
        normalize: norm each level over its channels at every place, without trained scale, so that levels weigh alike.
        level_scale: a factor per level, which makes them weigh alike too but keeps the contrast between places.
        mean, std: of the images that the model was trained on, for values in [0, 1]; None takes timm's record, or
            ImageNet's statistics. Images arrive with ImageNet's and are converted.
        trainable: let the parameters be trained.

    Raises:
        WeightsError: pretrained weights cannot be had or do not fit.
        ValueError: an unknown model or level, or a resolution that is not a multiple of the patch size.
    """

    def __init__(
        self,
        provider: str,
        name: str,
        resolution: list[int],
        level: int | list[int] = -1,
        pretrained: bool = True,
        weights: str | None = None,
        options: dict | None = None,
        grid: list[int] | None = None,
        interpolation: str = "bicubic",
        final_norm: bool = True,
        normalize: bool = False,
        level_scale: list[float] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        trainable: bool = False,
    ):
        super().__init__()
        if len(resolution) != 2 or min(resolution) < 1:
            raise ValueError(f"resolution is [h, w] in pixels, got {resolution}")
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation is 'bilinear' or 'bicubic', got {interpolation!r}")
        if weights is not None and not pretrained:
            raise ValueError(f"weights {weights!r} are given but pretrained is False")
        if level_scale is not None and (isinstance(level, int) or len(level_scale) != len(level)):
            raise ValueError(f"level_scale needs one factor per level of {level}, got {level_scale}")
        self.provider = provider
        self.resolution = list(resolution)
        self.interpolation = interpolation
        self.final_norm = final_norm
        self.normalize = normalize
        self.level_scale = level_scale
        levels = [level] if isinstance(level, int) else list(level)
        if provider == "timm":
            self.model, self.levels, info = _build_timm(name, self.resolution, levels, pretrained, weights, options)
            default_mean, default_std = self.model.pretrained_cfg["mean"], self.model.pretrained_cfg["std"]
        elif provider == "transformers":
            if not final_norm:
                raise ValueError("final_norm: False needs provider 'timm'; transformers hands out normed features only")
            self.model, self.levels, info = _build_transformers(
                name, self.resolution, levels, pretrained, weights, options
            )
            default_mean, default_std = IMAGENET_MEAN, IMAGENET_STD
        else:
            raise ValueError(f"provider is 'timm' or 'transformers', got {provider!r}")
        convolutional = provider == "timm" and not hasattr(self.model, "patch_embed")
        self.memory_format = torch.channels_last if convolutional else torch.contiguous_format  # twice as fast on CPUs
        self.model.to(memory_format=self.memory_format)
        if not pretrained:
            log.warning("backbone %s starts from random weights", name)
        self.level_dims = [dim for dim, _ in info]
        self.level_grids = [[math.ceil(side / reduction) for side in resolution] for _, reduction in info]
        self.dim = sum(self.level_dims)
        self.grid = list(grid) if grid is not None else max(self.level_grids)
        self._set_statistics(mean or default_mean, std or default_std)
        self.requires_grad_(trainable)
        self.train(self.training)

    def _set_statistics(self, mean: list[float], std: list[float]) -> None:
        """Prepare image * scale + shift, which exchanges ImageNet's statistics for those the model was trained with."""
        self.converts = tuple(mean) != IMAGENET_MEAN or tuple(std) != IMAGENET_STD
        mean, std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        imagenet_mean, imagenet_std = (
            torch.tensor(IMAGENET_MEAN).view(-1, 1, 1),
            torch.tensor(IMAGENET_STD).view(-1, 1, 1),
        )
        self.register_buffer("scale", imagenet_std / std, persistent=False)
        self.register_buffer("shift", (imagenet_mean - mean) / std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Extract features.

        Args:
            image: (b 3 h w) float, RGB, ImageNet-normalised.

        Returns:
            (b c h w) float of `dim` channels on `grid`.

        Raises:
            ValueError: the image has another number of channels, or the model gives another grid than expected.
        """
        require_shape("image", image, (None, 3, None, None))
        with no_grad_if_frozen(self):
            if list(image.shape[2:]) != self.resolution:
                image = functional.interpolate(image, self.resolution, mode=self.interpolation, align_corners=False)
            if self.converts:
                image = image * self.scale + self.shift
            image = image.contiguous(memory_format=self.memory_format)
            features = self._timm_features(image) if self.provider == "timm" else self._transformers_features(image)
            features = [self._to_grid(feature) for feature in features]
            if self.level_scale is not None:
                features = [feature * scale for feature, scale in zip(features, self.level_scale, strict=True)]
            return torch.cat(features, dim=1)

    def _timm_features(self, image: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(
            image, indices=self.levels, norm=self.final_norm, output_fmt="NCHW", intermediates_only=True
        )

    def _transformers_features(self, image: Tensor) -> list[Tensor]:
        return _transformers_states(self.model, image, self.levels, self.resolution)

    def _to_grid(self, feature: Tensor) -> Tensor:
        if self.normalize:
            feature = functional.layer_norm(feature.movedim(1, -1), feature.shape[1:2]).movedim(-1, 1)
        return resize_feature(feature, self.grid)


def extract(backbone: nn.Module, image: Tensor | None, feature: Tensor | None) -> Tensor:
    """Return the feature handed in (a cached one), or else the backbone's of the image.

    Raises:
        ValueError: neither is given, or the feature's shape is not the backbone's.
    """
    if feature is None:
        if image is None:
            raise ValueError("neither image nor feature is given")
        return backbone(image)
    require_shape("feature", feature, (None, backbone.dim, *backbone.grid))
    return feature


def resize_feature(feature: Tensor, grid: list[int]) -> Tensor:
    """Bring a map of features (b c h w) to a grid [h, w]: averages where it shrinks, bilinear where it grows."""
    if list(feature.shape[2:]) == list(grid):
        return feature
    if feature.shape[2] >= grid[0] and feature.shape[3] >= grid[1]:
        return functional.adaptive_avg_pool2d(feature, grid)
    return functional.interpolate(feature, grid, mode="bilinear", align_corners=False)


def _build_timm(
    name: str,
    resolution: list[int],
    levels: list[int],
    pretrained: bool,
    weights: str | None,
    options: dict | None,
) -> tuple[nn.Module, list[int], list[tuple[int, int]]]:
    """Return the network, its levels counted from 0, and (channels, reduction) of each of those."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        raise ValueError(f"timm has no model {name!r}; similar: {', '.join(near) or 'none'}")
    arguments = dict(options or {})
    record = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if record is not None and record.fixed_input_size:  # a table of positions: resampled once, when weights are loaded
        arguments.setdefault("img_size", tuple(resolution))
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


def _find_timm_weights(name: str, record: object, weights: str | None) -> Weights:
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


def _build_transformers(
    name: str,
    resolution: list[int],
    levels: list[int],
    pretrained: bool,
    weights: str | None,
    options: dict | None,
) -> tuple[nn.Module, list[int], list[tuple[int, float]]]:
    """As `_build_timm`, for Hugging Face transformers."""
    import transformers

    if pretrained and weights is None:
        model = _load_transformers(name, options or {})
    else:
        if name not in transformers.CONFIG_MAPPING:
            raise ValueError(f"transformers has no model type {name!r}, such as 'dinov2' or 'vit'")
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(name, **(options or {})))
    if weights is not None:
        state = read_file(weights)
        try:  # knows the names of earlier versions, unlike load_state_dict
            loaded = type(model).from_pretrained(None, config=model.config, state_dict=state, output_loading_info=True)
        except RuntimeError as error:
            raise WeightsError(f"weights {weights!r} do not fit {name} with {options}: {error}") from error
        model = _require_complete(*loaded, weights)
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
        shapes = [state.shape for state in _transformers_states(model, image, levels, resolution)]
    return model, levels, [(shape[1], resolution[0] / shape[2]) for shape in shapes]


def _load_transformers(name: str, options: dict) -> nn.Module:
    """Load a model from a local folder, the cache or the hub."""
    from huggingface_hub import constants
    from transformers import AutoModel

    try:
        return _require_complete(
            *AutoModel.from_pretrained(name, local_files_only=True, output_loading_info=True, **options), name
        )
    except OSError:
        reason = why_no_hub()
    if reason is None:
        try:
            return _require_complete(*AutoModel.from_pretrained(name, output_loading_info=True, **options), name)
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


def _transformers_states(model: nn.Module, image: Tensor, levels: list[int], resolution: list[int]) -> list[Tensor]:
    """Run a transformers model; return the features (b c h w) of the levels, the last one as the model hands it out."""
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
    return (size, size) if isinstance(size, int) else tuple(size)
