"""A trained model in three lines: load a run, give it pictures or a video, get slots and masks."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import config as configs
from .datum.own_picture import read_picture, to_rgb
from .experiment import complete, make_accelerator
from .learn import checkpoint
from .learn.path import fetch_tensor
from .registry import ConfigError, build
from .restore import config_within, load_into, without_pretrained

SEED = 0  # of methods that draw their initial slots in evaluation too: the same pictures give the same slots
Picture = str | Path | Image.Image | np.ndarray | Tensor


class Prediction(NamedTuple):
    """What a model found.

    Attributes:
        slots: (b s d) float32 of pictures, (t s d) of a video's frames, on the CPU.
        masks: an index map (h w) uint8 per picture or frame, at its own size: `mask == k` is what slot k holds.
    """

    slots: Tensor
    masks: list[Tensor]


class Predictor:
    """A trained model, ready for pictures that are in no dataset.

    A picture is scaled to the square that the model was trained on, whole: crops of training stretched theirs by up to
    a third as well, and nothing is cut off. Masks are scaled back, before the largest is taken at every pixel.

    Args:
        cfg: completed config.
        device: auto, cpu or cuda.

    Attributes:
        model: the method, frozen, in eval mode.
        takes: "image" or "video", what the method was made for.
        num_boxes: boxes that a conditional method takes of the first frame; 0 of others.

    Raises:
        ConfigError: the config finds no objects (a first stage), or cannot be built.
    """

    def __init__(self, cfg: dict, device: str = "auto"):
        self.mask = mask_path(cfg)
        self.accelerator = make_accelerator(device, cfg["precision"])
        told = logging.getLogger(f"{__package__}.model")
        level = told.level
        told.setLevel(logging.ERROR)  # it would tell of random weights, which the checkpoint's replace
        try:
            self.model = build(without_pretrained(cfg["model"]), "model")
        finally:
            told.setLevel(level)
        self.model.to(self.accelerator.device).requires_grad_(False).eval()
        self.transforms = build(cfg["dataset"]["batch_transforms"], "dataset.batch_transforms")
        self.takes = "video" if "video" in cfg["dataset"]["eval"]["keys"] else "image"
        self.resize = build(dict(type="Resize", keys=[self.takes], size=picture_size(cfg)), "resize")
        self.num_boxes = number_of_boxes(cfg) if "box" in getattr(self.model, "needs", ()) else 0
        self.batch_size = cfg["dataset"]["eval_batch_size"]

    def predict(self, images: Picture | Sequence[Picture]) -> Prediction:
        """Find the objects of pictures.

        A method for videos treats each as a video of one frame.

        Args:
            images: one or several, of any sizes: paths, PIL pictures, arrays (h w 3) uint8 RGB, tensors (3 h w) uint8.

        Raises:
            DataError: a file cannot be read; the text names it.
            ConfigError: the method starts from boxes: use `predict_video`.
            ValueError: an array of another shape or type.
        """
        several = isinstance(images, (list, tuple)) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4)
        given: Any = images if several else [images]
        if len(given) == 0:
            raise ValueError("no picture was given")
        if self.num_boxes:
            raise ConfigError("this method starts from boxes of the first frame: use predict_video(frames, box=...)")
        slots, masks = [], []
        for start in range(0, len(given), self.batch_size):
            pictures = [as_tensor(picture) for picture in given[start : start + self.batch_size]]
            small = torch.stack([self.shrink(picture) for picture in pictures])
            output = self.run(small[:, None] if self.takes == "video" else small)
            found, soft = (part[:, 0] if self.takes == "video" else part for part in output)
            slots.append(found)
            sizes = [(picture.shape[-2], picture.shape[-1]) for picture in pictures]
            masks += [largest(one, size) for one, size in zip(soft, sizes, strict=True)]
        return Prediction(torch.cat(slots), masks)

    def predict_video(self, frames: Iterable[Picture], box: Tensor | None = None) -> Prediction:
        """Find the objects of a video; a slot of a method for videos stays with its object.

        A method for images treats frames one by one: its slot k of a frame has nothing to do with that of the next.
        Frames are read one by one and kept small, so that a generator of large ones needs little memory.

        Args:
            frames: all of one size, each as for `predict`.
            box: (n 4) float, left, top, right, bottom of the objects in the first frame, 0..1 of the picture; for
                methods that start from boxes, at most `num_boxes`.

        Raises:
            ConfigError: boxes are missing, too many, or of no use to this method.
            DataError, ValueError: as for `predict`; or there is no frame, or frames differ in size.
        """
        slots, soft, size = self.follow(frames, box)
        return Prediction(slots, [largest(mask, size) for mask in soft])

    def follow(self, frames: Iterable[Picture], box: Tensor | None = None) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Return the slots (t s d) of a video, their masks (t s h' w') float32, and the frames' height and width.

        Arguments and errors are those of `predict_video`, which scales the masks.
        """
        self.check_boxes(box)
        small, sizes = [], set()
        for frame in frames:
            picture = as_tensor(frame)
            sizes.add(tuple(picture.shape[-2:]))
            small.append(self.shrink(picture))
        if len(sizes) != 1:
            raise ValueError(f"frames of {sorted(sizes)} pixels; all have one size" if sizes else "it has no frame")
        video = torch.stack(small)
        if self.takes == "video":
            slots, soft = (part[0] for part in self.run(video[None], box))
        else:
            chunks = [self.run(chunk) for chunk in video.split(self.batch_size)]
            slots, soft = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        height, width = sizes.pop()
        return slots, soft, (height, width)

    def check_boxes(self, box: Tensor | None) -> None:
        """Raise `ConfigError` if boxes are missing, too many, or of no use."""
        if box is None and self.num_boxes:
            raise ConfigError(
                f"this method starts from boxes of the first frame: give 1 to {self.num_boxes} of them (left, top, "
                "right, bottom)"
            )
        if box is not None and not self.num_boxes:
            raise ConfigError("boxes were given, but this method does not start from boxes")
        if box is not None and not (box.ndim == 2 and box.shape[1] == 4 and 0 < len(box) <= self.num_boxes):
            raise ConfigError(f"boxes are 1 to {self.num_boxes} rows of four numbers, not {tuple(box.shape)}")

    def shrink(self, picture: Tensor) -> Tensor:
        """Scale a picture (3 h w) uint8 to the model's size as the evaluation does."""
        return self.resize({self.takes: picture})[self.takes]

    @torch.inference_mode()
    def run(self, pictures: Tensor, box: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return slots (b s d) and masks (b s h' w') float32 of pictures (b 3 h w) uint8; of videos with t after b."""
        device = self.accelerator.device
        batch: dict[str, Any] = {self.takes: pictures.to(device)}
        for transform in self.transforms:
            batch = transform(batch, None)
        if box is not None:
            padded = F.pad(box.float(), (0, 0, 0, self.num_boxes - len(box)))
            batch["box"] = padded[None, None].to(device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []), self.accelerator.autocast():
            torch.manual_seed(SEED)
            output = self.model(**batch)
        mask = fetch_tensor(self.mask, batch, output, "MaskToSegment.mask")
        return output["slots"].float().cpu(), mask.float().cpu()


def load(
    path: str | Path, cfg_file: str | Path | None = None, device: str = "auto", overrides: Sequence[str] = ()
) -> Predictor:
    """Return a trained model for pictures and videos of one's own.

    Args:
        path: run folder (then its best checkpoint, else its last), checkpoint folder or file, also a published one.
        cfg_file: config of the model, needed where the checkpoint does not hold it, as published ones.
        device: auto, cpu or cuda.
        overrides: `key=value` texts, as on the command line.

    Raises:
        CheckpointError: it is missing, damaged, or does not fit the config.
        ConfigError: the config is missing or cannot be built.
    """
    file = checkpoint.find(path)
    tensors, info = checkpoint.read(file)
    if cfg_file is None:
        cfg = configs.override(config_within(file, tensors, info), [*overrides])
    else:
        cfg = configs.load(cfg_file, [*overrides])
    predictor = Predictor(complete(cfg), device)
    load_into(predictor.model, tensors, file)
    return predictor


def mask_path(cfg: dict) -> str:
    """Return the path of the masks that a config scores, such as `output.attention`.

    Raises:
        ConfigError: it scores none.
    """
    found = [callback["mask"] for callback in cfg["callback"] if callback["type"] == "MaskToSegment"]
    if not found:
        raise ConfigError("callback: no MaskToSegment: this config finds no objects (is it a first stage?)")
    return found[0]


def picture_size(cfg: dict) -> list[int]:
    """Return the height and width to which a config's evaluation scales pictures.

    Raises:
        ConfigError: it does not.
    """
    for transform in cfg["dataset"]["eval"]["transforms"]:
        if transform["type"] == "Resize":
            return transform["size"]
    raise ConfigError("dataset.eval.transforms: no Resize, so the size of the model's pictures is unknown")


def number_of_boxes(cfg: dict) -> int:
    """Return to how many boxes a config pads those of the first frame.

    Raises:
        ConfigError: it does not pad.
    """
    for transform in cfg["dataset"]["eval"]["transforms"]:
        if transform["type"] == "PadTo" and "box" in transform["keys"]:
            return transform["size"]
    raise ConfigError("dataset.eval.transforms: no PadTo of boxes, so the number of slots is unknown")


def as_tensor(picture: Picture) -> Tensor:
    """Return a picture, of any kind that `Predictor.predict` takes, as (3 h w) uint8 RGB.

    Raises:
        DataError: the file cannot be read.
        ValueError: an array of another shape or type.
    """
    if isinstance(picture, (str, Path)):
        picture = read_picture(picture)
    elif isinstance(picture, Image.Image):
        picture = to_rgb(picture)
    if isinstance(picture, np.ndarray):
        picture = torch.from_numpy(np.ascontiguousarray(picture))
        picture = picture.permute(2, 0, 1) if picture.ndim == 3 else picture
    if not (isinstance(picture, Tensor) and picture.dtype == torch.uint8 and picture.ndim == 3 and len(picture) == 3):
        kind = f"{picture.dtype} {tuple(picture.shape)}" if isinstance(picture, Tensor) else type(picture).__name__
        raise ValueError(f"a picture is an array (h w 3) or a tensor (3 h w), uint8 RGB, not {kind}")
    return picture


def largest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which mask is the largest at every pixel; as `mask_to_segment`, but a slot at a time, for huge pictures.

    Args:
        mask: (s h' w') float, at most 255 of them.
        size: of the index map, pixels.

    Returns:
        (h w) uint8; ties go to the first.
    """
    best, index = None, torch.zeros(tuple(size), dtype=torch.uint8)
    for slot, one in enumerate(mask):
        scaled = F.interpolate(one[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]
        if best is None:
            best = scaled
            continue
        index[scaled > best] = slot
        torch.maximum(best, scaled, out=best)
    return index
