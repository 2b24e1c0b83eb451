"""`eval.py --predict`: masks, overlays, COCO annotations and slots of a user's own pictures and videos."""

import json
import logging
import os
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from .console import bar, say
from .datum.own_picture import find_files, frame_rate, is_video, read_frames, read_picture, stated_frames
from .datum.record import DataError
from .datum.source import read_json
from .files import replacing, save_tensors
from .learn import checkpoint
from .picture import draw_segments, palette
from .prediction import Predictor, largest, load
from .registry import ConfigError

log = logging.getLogger(__name__)

LONG_SIDE = 1600  # pixels of an overlay at most; masks have the size of the picture
CODECS = ("libx264", "mpeg4")  # of overlays of videos, the first that PyAV was built with
READERS = 4  # threads that decode pictures
PIXELS = 64_000_000  # of pictures held for one batch, unless one alone has more


def predict_command(options: Namespace) -> int:
    """Segment what `eval.py --predict` names; return the exit code.

    Raises:
        ConfigError, CheckpointError, DataError: what cannot be used, and why.
    """
    if options.max_frames < 1:
        raise ConfigError(f"--max_frames {options.max_frames}: 1 at least")
    file = checkpoint.find(options.ckpt_file)
    predictor = load(file, options.cfg_file, options.device, options.overrides)
    out = Path(options.out) if options.out else file.parent / "predict"
    boxes = Path(options.boxes) if options.boxes else None
    predict_files(predictor, options.predict, out, boxes, options.max_frames)
    return 0


def predict_files(predictor: Predictor, paths: list[str], out: Path, boxes: Path | None, max_frames: int) -> int:
    """Write what a model finds in files, see `Writer`; say what could not be read; return how many files worked.

    Args:
        predictor: the model.
        paths: files, folders, glob patterns.
        out: made if it is missing; files of equal names are replaced.
        boxes: JSON file, see `read_boxes`.
        max_frames: of a video; the rest is left out, which is said.

    Raises:
        DataError: a path means nothing, the boxes cannot be read, or no file worked.
        ConfigError: the method needs boxes that are not given, or has no use for them.
    """
    names = relative_names(find_files(paths))
    files = list(names)
    videos = [file for file in files if is_video(file)]
    pictures = [file for file in files if not is_video(file)]
    known = boxes_of_videos(predictor, videos, names, boxes)
    writer = Writer(out)
    bad: list[str] = []
    with bar(total=len(files), desc="predict", unit="file", leave=False) as progress:
        if predictor.num_boxes:
            bad += [f"{file}: this method starts from boxes, which only videos have" for file in pictures]
            progress.update(len(pictures))
            pictures = []
        for batch in batches(pictures, predictor.batch_size, bad):
            prediction = predictor.predict(list(batch.values()))
            for (file, picture), slots, mask in zip(batch.items(), *prediction, strict=True):
                writer.picture(names[file], picture, slots, mask)
            progress.update(len(batch))
        for file in videos:
            try:
                predict_video(predictor, file, names[file], known.get(file), max_frames, writer)
            except DataError as error:
                bad.append(str(error))
            except (ConfigError, ValueError) as error:
                bad.append(f"{file}: {error}")
            progress.update()
    for message in bad:
        log.warning("left out: %s", message)
    worked = len(files) - len(bad)
    if not worked:
        raise DataError(f"none of the {len(files)} files could be used; each is named above")
    writer.close()
    say(f"{worked} files done, {len(bad)} left out; masks, overlays, predictions.json, slots.safetensors in {out}")
    return worked


def predict_video(
    predictor: Predictor, file: Path, name: str, boxes: Tensor | None, max_frames: int, writer: "Writer"
) -> None:
    """Find and write the objects of a video; it is decoded twice, so that large frames need no room."""
    box = None
    if boxes is not None:
        first = next(read_frames(file), None)
        if first is None:
            raise DataError(f"{file} has no frame")
        height, width = first.shape[:2]
        box = boxes / torch.tensor([width, height, width, height])
    frames = min(max_frames, stated_frames(file) or max_frames)
    shown = partial(bar, total=frames, unit="frame", leave=False)
    slots, soft, size = predictor.follow(shown(islice(read_frames(file), max_frames), f"read {file.name}"), box)
    if len(slots) == max_frames and any(True for _ in islice(read_frames(file), max_frames, max_frames + 1)):
        log.warning("%s: only its first %d frames are used (--max_frames)", file, max_frames)
    masks = (largest(mask, size) for mask in soft)
    pairs = zip(read_frames(file), masks, strict=False)
    writer.video(name, shown(pairs, f"write {file.name}", total=len(slots)), slots, frame_rate(file))


def boxes_of_videos(
    predictor: Predictor, videos: list[Path], names: dict[Path, str], file: Path | None
) -> dict[Path, Tensor]:
    """Return the boxes (n 4) that a JSON file has for videos, see `read_boxes`.

    Raises:
        DataError: it cannot be read, or names a video that is not there.
        ConfigError: the method needs boxes and none are given, or has no use for them.
    """
    if file is None:
        if predictor.num_boxes:
            raise ConfigError(
                f"this method starts from boxes: give by --boxes 1 to {predictor.num_boxes} of the objects in each "
                'video\'s first frame, as JSON: {"clip.mp4": [[left, top, right, bottom], ...]}, in pixels'
            )
        return {}
    if not predictor.num_boxes:
        raise ConfigError("--boxes: this method does not start from boxes; leave it out")
    given = read_boxes(file)
    found = {video: next((key for key in (names[video], video.name) if key in given), None) for video in videos}
    lost = sorted(given.keys() - set(found.values()))
    if lost:
        raise DataError(f"{file} has boxes of {lost[0]!r}, which is none of the videos: {', '.join(names.values())}")
    return {video: given[key] for video, key in found.items() if key is not None}


def read_boxes(file: Path) -> dict[str, Tensor]:
    """Return what a JSON file says: a video's name, or path as in our results -> boxes (n 4), its first frame's pixels.

    Each box is [left, top, right, bottom] of one object.

    Raises:
        DataError: it says something else.
    """
    given = read_json(file)
    if not isinstance(given, dict):
        raise DataError(f'{file}: an object is wanted, {{"clip.mp4": [[left, top, right, bottom], ...]}}')
    found = {}
    for name, rows in given.items():
        try:
            found[name] = torch.tensor(rows, dtype=torch.float32)
        except (TypeError, ValueError):
            found[name] = torch.zeros(0)
        if found[name].ndim != 2 or found[name].shape[1] != 4:
            raise DataError(f"{file}: {name!r} wants a list of boxes [left, top, right, bottom], in pixels")
    return found


def relative_names(files: list[Path]) -> dict[Path, str]:
    """Return for each file, once, its path below the folder that all have in common: unique, and telling."""
    whole = {os.path.abspath(file): file for file in files}  # a link keeps its own name
    common = os.path.commonpath([os.path.dirname(path) for path in whole])
    return {file: Path(path).relative_to(common).as_posix() for path, file in whole.items()}


def batches(files: list[Path], size: int, bad: list[str]) -> Iterator[dict[Path, np.ndarray]]:
    """Yield up to `size` pictures (h w 3) at a time, decoded ahead by threads; messages of bad ones go to `bad`."""
    batch: dict[Path, np.ndarray] = {}
    for file, read in ahead(files, read_picture):
        try:
            picture = read()
        except DataError as error:
            bad.append(str(error))
            continue
        held = sum(other.shape[0] * other.shape[1] for other in batch.values())
        if batch and (len(batch) == size or held + picture.shape[0] * picture.shape[1] > PIXELS):
            yield batch
            batch = {}
        batch[file] = picture
    if batch:
        yield batch


def ahead(files: list[Path], function: Callable) -> Iterator[tuple[Path, Callable]]:
    """Yield files in order, each with a function that waits for its result; `READERS` are under way meanwhile."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[Path, Future]] = deque()
        for file in files:
            waiting.append((file, pool.submit(function, file)))
            if len(waiting) > READERS:
                done, future = waiting.popleft()
                yield done, future.result
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result


class Writer:
    """Writes, below a folder, what was found.

    - `masks/NAME.png`: PNG with a palette, its values are slots, of the picture's own size; `masks/NAME/000000.png` and
      so on for the frames of a video.
    - `overlays/NAME.png` or `.mp4`: to look at, 1600 pixels wide or high at most.
    - `predictions.json`: COCO annotations, masks as RLE; `slot` tells which, frames of a video have `video`, `frame`.
    - `slots.safetensors`: NAME -> slots (s d), of a video (t s d).

    Args:
        out: the folder.
    """

    def __init__(self, out: Path):
        self.out = out
        self.slots: dict[str, Tensor] = {}
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def picture(self, name: str, picture: np.ndarray, slots: Tensor, mask: Tensor) -> None:
        """Write one picture's; picture (h w 3) uint8, slots (s d), mask (h w) uint8."""
        self.slots[name] = slots.contiguous()
        index = self.mask(f"{name}.png", mask, slots.shape[-2])
        self.annotate(index, file_name=name)
        with replacing(self.out / "overlays" / f"{name}.png") as file:
            Image.fromarray(overlay(picture, index)).save(file)

    def video(self, name: str, frames: Iterator[tuple[np.ndarray, Tensor]], slots: Tensor, rate: float) -> None:
        """Write one video's, frame by frame; frames and masks as for `picture`, slots (t s d), rate per second."""
        import av  # there: the frames were read by it

        self.slots[name] = slots.contiguous()
        codec = next(codec for codec in CODECS if codec in av.codecs_available)
        with replacing(self.out / "overlays" / f"{name}.mp4") as file, av.open(str(file), "w") as container:
            stream: Any = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
            stream.pix_fmt = "yuv420p"
            for number, (frame, mask) in enumerate(frames):
                index = self.mask(f"{name}/{number:06}.png", mask, slots.shape[-2])
                self.annotate(index, file_name=f"{name}/{number:06}", video=name, frame=number)
                drawn = overlay(frame, index)
                drawn = drawn[: len(drawn) // 2 * 2 or 1, : drawn.shape[1] // 2 * 2 or 1]  # codecs want even sides
                if number == 0:
                    stream.height, stream.width = drawn.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="rgb24")))
            container.mux(stream.encode())

    def mask(self, name: str, mask: Tensor, num_slots: int) -> np.ndarray:
        """Write an index map (h w) uint8 as PNG with a palette of the overlays' colours; return it."""
        index = mask.numpy()
        drawn = Image.fromarray(index).convert("P")
        drawn.putpalette(palette(num_slots).tobytes())
        with replacing(self.out / "masks" / name) as file:
            drawn.save(file)
        return index

    def annotate(self, index: np.ndarray, **facts: str | int) -> None:
        """Take in the annotations of one index map."""
        height, width = index.shape
        image = {"id": len(self.images) + 1, "height": height, "width": width, **facts}
        self.images.append(image)
        for slot in np.flatnonzero(np.bincount(index.ravel())).tolist():
            encoded = coco_mask.encode(np.asfortranarray(index == slot, dtype=np.uint8))
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image["id"],
                    "category_id": 1,
                    "slot": slot,
                    "iscrowd": 0,
                    "area": int(coco_mask.area(encoded)),
                    "bbox": coco_mask.toBbox(encoded).tolist(),
                    "segmentation": {"size": [height, width], "counts": encoded["counts"].decode("ascii")},
                }
            )

    def close(self) -> None:
        """Write what is one file for all."""
        whole = {
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": 1, "name": "slot", "supercategory": "slot"}],
        }
        with replacing(self.out / "predictions.json") as file:
            file.write_text(json.dumps(whole) + "\n")
        with replacing(self.out / "slots.safetensors") as file:
            save_tensors(self.slots, file)


def overlay(picture: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return a picture (h w 3) uint8 with its index map (h w) uint8 painted over it, `LONG_SIDE` at most."""
    height, width = index.shape
    scale = LONG_SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        index = cv2.resize(index, size, interpolation=cv2.INTER_NEAREST)
    return draw_segments(picture, index)
