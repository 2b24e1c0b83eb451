"""Video: parts that treat every frame alike, and the recurrence that hands slots from frame to frame."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from object_centric_bench.model.second_stage import SecondStage
from object_centric_bench.model.sizes import require_equal, require_heads, require_shape
from object_centric_bench.model.slot_attention import SlotAttention
from object_centric_bench.registry import register

FRAMES_AT_ONCE = 24  # without autograd; 21 slots of 256 places and width 2048 are 1.1 GB in float32


@register
class SlotPredictor(nn.Module):
    """Predict a frame's slots from those of the frame before: one transformer layer, normed after each sum, no biases.

    Kipf et al., ICLR 2022 (SAVi), Sec. 3; Singh et al., NeurIPS 2022 (STEVE). GELU instead of ReLU and no biases,
    as in the reference.

    Args:
        dim: width of the slots.
        num_heads: of the attention among slots.
        hidden_dim: of the MLP; None means `4 * dim`.
        dropout: of the attention, of what it gives, and twice in the MLP.

    Raises:
        ValueError: dim is no multiple of num_heads.
    """

    def __init__(self, dim: int, num_heads: int = 4, hidden_dim: int | None = None, dropout: float = 0.1):
        super().__init__()
        require_heads(dim, num_heads)
        self.dim = dim
        self.layer = nn.TransformerEncoderLayer(
            dim, num_heads, hidden_dim or 4 * dim, dropout, activation="gelu", batch_first=True, bias=False
        )

    def forward(self, slots: Tensor) -> Tensor:
        """Map slots (b s d) float to the next frame's initial slots (b s d) float."""
        require_shape("slots", slots, (None, None, self.dim))
        return self.layer(slots)


class VideoSecondStage(SecondStage):
    """The parts of a method on video whose slots predict the codes of a frozen tokenizer; it adds its `forward`.

    Slots start from the boxes of the first frame, or with an initializer that takes a batch size from nothing.

    Attributes:
        needs: entries that a batch must have.

    Args: see `SecondStage`, and
        predictor: maps the slots of a frame to initial slots of the next.

    Raises:
        ValueError: widths or grids of parts that meet differ.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projection: nn.Module,
        initializer: nn.Module,
        slot_attention: nn.Module,
        predictor: nn.Module,
        tokenizer: nn.Module,
        decoder: nn.Module,
        sample_codes: bool = True,
    ):
        super().__init__(backbone, projection, initializer, slot_attention, tokenizer, decoder, sample_codes)
        require_equal(("slot_attention's dim", slot_attention.dim, "predictor's dim", predictor.dim))
        self.predictor = predictor
        self.needs = ("video", "box") if needs_box(initializer) else ("video",)

    def find_slots(  # type: ignore[override]  # slots may start from boxes
        self, video: Tensor | None, box: Tensor | None, feature: Tensor | None
    ) -> dict[str, Tensor]:
        """Return feature (b t c h w), slots (b t s d) and attention (b t s h w); see the methods' `forward`."""
        feature = extract_frames(self.backbone, video, feature)
        return {"feature": feature, **follow(self, feature, box)}

    def tokenize_frames(self, given: Tensor | None, code: Tensor | None = None) -> dict[str, Tensor]:
        """Return code (b t h w) and quantized (b t c h w) of features or frames (b t c h w), or of known codes."""
        if code is not None:
            return per_frame(lambda known: self.tokenize(None, known), code)
        return per_frame(self.tokenize, given)


def needs_box(initializer: nn.Module) -> bool:
    """Tell whether initial slots are made from boxes."""
    return getattr(initializer, "needs_box", False)


def start_slots(initializer: nn.Module, box: Tensor | None, batch_size: int) -> Tensor:
    """Return the initial slots (b s d) of the first frame, at least in float32: the state of a long recurrence.

    Args:
        initializer: takes boxes if it `needs_box`, otherwise a batch size.
        box: (b t n 4) float, left, top, right, bottom in 0..1; only the first frame's are used.
        batch_size: number of videos.

    Raises:
        ValueError: boxes are needed and missing, or of another shape.
    """
    if not needs_box(initializer):
        return initializer(batch_size)
    name = type(initializer).__name__
    if box is None:
        raise ValueError(
            f"box is missing: {name} makes slots from the boxes of the first frame. Add 'box' to the dataset's keys, "
            "or take an initializer that needs none, such as PerSlotGaussian"
        )
    require_shape("box", box, (batch_size, None, None, 4))
    slots = initializer(box[:, 0])
    return slots.to(torch.promote_types(slots.dtype, torch.float32))


def valid_slots(initializer: nn.Module, box: Tensor | None) -> Tensor | None:
    """Return which slots (b s) bool take part, of those that start from boxes (b t n 4); None means all."""
    return initializer.valid(box[:, 0]) if needs_box(initializer) and box is not None else None


def follow(model: nn.Module, feature: Tensor, box: Tensor | None) -> dict[str, Tensor]:
    """Return slots (b t s d) and attention (b t s h w) of features (b t c h w), by the parts of a method on video."""
    initial, valid = start_slots(model.initializer, box, len(feature)), valid_slots(model.initializer, box)
    slots, attention = group_frames(feature, model.projection, initial, model.slot_attention, model.predictor, valid)
    return {"slots": slots, "attention": attention}


def extract_frames(backbone: nn.Module, video: Tensor | None, feature: Tensor | None) -> Tensor:
    """Return the features (b t c h w) handed in (cached ones), or else the backbone's of all frames (b t 3 h w).

    Raises:
        ValueError: neither is given, or a shape does not fit.
    """
    if feature is None:
        if video is None:
            raise ValueError("neither video nor feature is given")
        require_shape("video", video, (None, None, 3, None, None))
        return per_frame(backbone, video)
    require_shape("feature", feature, (None, None, backbone.dim, *backbone.grid))  # type: ignore[misc]  # of two
    return feature


def group_frames(
    feature: Tensor,
    projection: nn.Module,
    slots: Tensor,
    slot_attention: SlotAttention,
    predictor: nn.Module,
    slot_valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Let slots compete for the places of every frame, starting from what is predicted from the frame before.

    Tokens, keys and values of all frames are computed at once; only what depends on slots runs frame by frame. The
    reference also predicts after the last frame, of which nothing is seen but a shift of dropout's random numbers.

    Args:
        feature: (b t c h w) float.
        projection: maps features to the tokens of slot attention.
        slots: (b s d) float, initial slots of the first frame.
        slot_attention: refines them.
        predictor: maps slots to the next frame's initial ones.
        slot_valid: (b s) bool, False takes a slot out of the competition in all frames; None means all are valid.

    Returns:
        slots: (b t s d) float, refined, not predicted ones.
        attention: (b t s h w) float, sums to 1 over s.
    """
    tokens = projection(merge(feature).flatten(2).transpose(1, 2))  # bt n c
    keys, values = (split(part, len(feature)).unbind(1) for part in slot_attention.embed(tokens))  # t times b n d
    refined, attentions = [], []
    for frame, (key, value) in enumerate(zip(keys, values, strict=True)):
        if frame > 0:
            slots = predictor(slots)
        iterations = slot_attention.first_iterations if frame == 0 else None
        slots, attention = slot_attention.refine(slots, key, value, iterations, slot_valid)
        refined.append(slots)
        attentions.append(attention)
    return torch.stack(refined, dim=1), torch.stack(attentions, dim=1).unflatten(3, feature.shape[3:])


def decode_slots(decoder: nn.Module, slots: Tensor, slot_valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Decode the slots (b t s d) of all frames by a mixture decoder; return its maps (b t c h w) and masks (b t s h w).

    Slots that are False in slot_valid (b s) bool are kept out of the mixture.
    """
    if slot_valid is None:
        return per_frame(decoder, slots)
    return per_frame(decoder, slots, slot_valid[:, None].expand(*slots.shape[:3]))


def merge(tensor: Tensor) -> Tensor:
    """Return (b t ...) as (bt ...)."""
    return tensor.flatten(0, 1)


def split(tensor: Tensor, batch_size: int) -> Tensor:
    """Return (bt ...) as (b t ...)."""
    return tensor.unflatten(0, (batch_size, -1))


def per_frame(function: Callable, *inputs: Tensor) -> Any:
    """Apply a function of images to every frame of a batch of videos.

    All frames at once while autograd records, otherwise `FRAMES_AT_ONCE`, which bounds the memory of whole videos.

    Args:
        function: takes and returns tensors (n ...), treats each of the n alone; it may return dicts, tuples or lists
            of them.
        inputs: (b t ...) each.

    Returns:
        What the function returns, with tensors (b t ...).
    """
    merged = [merge(tensor) for tensor in inputs]
    size = len(merged[0]) if torch.is_grad_enabled() else FRAMES_AT_ONCE
    return _each(partial(split, batch_size=len(inputs[0])), in_chunks(function, size, *merged))


def in_chunks(function: Callable, size: int, *inputs: Tensor) -> Any:
    """Apply a function, see `per_frame`, to at most `size` of the leading n at once; return the results joined."""
    total = len(inputs[0])
    if total <= size:
        return function(*inputs)
    whole = None
    for start in range(0, total, size):
        part = function(*(tensor[start : start + size] for tensor in inputs))
        if whole is None:
            whole = _each(partial(_room, total), part)
        _each(lambda room, rows, start=start: room[start : start + len(rows)].copy_(rows), whole, part)
    return whole


def _room(total: int, rows: Tensor) -> Tensor:
    """Return an empty tensor for `total` such rows (n ...), laid out in memory like them: no copy is needed later."""
    order = sorted(range(1, rows.ndim), key=rows.stride, reverse=True)
    room = rows.new_empty(total, *(rows.shape[axis] for axis in order))
    return room.permute(0, *(1 + order.index(axis) for axis in range(1, rows.ndim)))


def _each(function: Callable, *results: Any) -> Any:
    """Apply a function to the tensors of results that are built alike: tensors, or dicts, tuples or lists of them."""
    first = results[0]
    if isinstance(first, dict):
        return {key: _each(function, *(result[key] for result in results)) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(_each(function, *members) for members in zip(*results, strict=True))
    return function(*results)
