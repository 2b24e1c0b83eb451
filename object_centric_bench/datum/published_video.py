"""Videos of published files: AVI buffers (2025) or lists of PNG files (2026), of which only some frames are decoded."""

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from .dataset import decode_image, decode_label
from .record import DataError

INSTALL = "pip install av"
Choose = Callable[[int], Sequence[int]]


def decode(stored: dict[str, Any], keys: Collection[str], choose: Choose, where: str) -> dict[str, np.ndarray]:
    """Decode those entries of a published MOVi record that `keys` names and it has.

    Args:
        stored: the record.
        keys: names of ours.
        choose: from the number of frames to those wanted, rising; called for each video.
        where: file and sample, for messages.

    Returns:
        video (t h w 3) uint8 RGB; segment (t h w) uint8; backward_flow (t 2 h w) and depth (t h w) uint16 with
        `<key>_range` (2) float32, minimum and maximum; box (t n 4) float32 of all frames.

    Raises:
        DataError: an entry is damaged or not what it should be; or PyAV is needed and not installed.
    """
    record: dict[str, np.ndarray] = {}
    if "video" in keys and "video" in stored:
        record["video"] = np.stack(_read(stored["video"], choose, "colour", f"{where}, 'video'"))
    if "segment" in keys and "segment" in stored:
        record["segment"] = np.stack(_read(stored["segment"], choose, "grey", f"{where}, 'segment'"))
    if "box" in keys and "bbox" in stored:
        box = stored["bbox"]
        if not isinstance(box, np.ndarray) or box.ndim != 3 or box.shape[2] != 4:
            raise DataError(f"{where}: 'bbox' is no array (t n 4); download the file again")
        record["box"] = box
    if "backward_flow" in keys and "flow" in stored:
        parts, bounds = _ranged(stored["flow"], f"{where}, 'flow'")
        if not isinstance(parts, list) or len(parts) != 2:
            raise DataError(f"{where}: 'flow' has no two components; download the file again")
        components = [np.stack(_read(part, choose, "wide", f"{where}, 'flow'")) for part in parts]
        record["backward_flow"], record["backward_flow_range"] = np.stack(components, axis=1), bounds
    if "depth" in keys and "depth" in stored:
        part, bounds = _ranged(stored["depth"], f"{where}, 'depth'")
        record["depth"] = np.stack(_read(part, choose, "wide", f"{where}, 'depth'"))
        record["depth_range"] = bounds
    return record


def _ranged(entry: Any, where: str) -> tuple[Any, np.ndarray]:
    try:
        return entry["data"], np.array([entry["min"], entry["max"]], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: must have data, min and max; download the file again") from error


def _read(entry: Any, choose: Choose, kind: str, where: str) -> list[np.ndarray]:
    """Return the chosen frames: (h w 3) uint8 if `kind` is colour, (h w) uint8 if grey, (h w) uint16 if wide."""
    if isinstance(entry, bytes):
        video = _Video(entry, where)
        frames = video.read(list(choose(len(video))), "gray" if kind == "grey" else "rgb24")
        if kind == "wide":
            frames = [(frame[:, :, 0].astype(np.uint16) << 8) | frame[:, :, 1] for frame in frames]
    elif isinstance(entry, list):
        frames = [_picture(entry[number], kind, where) for number in choose(len(entry))]
    else:
        raise DataError(f"{where}: is neither an AVI file nor a list of pictures; download the file again")
    dtype = np.uint16 if kind == "wide" else np.uint8
    if len({frame.shape for frame in frames}) > 1 or any(frame.dtype != dtype for frame in frames):
        raise DataError(f"{where}: its frames differ in size, or have not the expected {8 * dtype().itemsize} bits")
    return frames


def _picture(encoded: Any, kind: str, where: str) -> np.ndarray:
    if not isinstance(encoded, (bytes, np.ndarray)) or not len(encoded):
        raise DataError(f"{where}: a frame is empty or no picture; download the file again")
    if kind != "colour":
        return decode_label(encoded, where)
    array = decode_image(encoded)
    if array is None:
        raise DataError(f"{where}: a picture cannot be decoded; download the file again")
    return array[:, :, ::-1]  # the writer exchanged red and blue


class _Video:
    """An AVI file whose frames are not decoded yet; to be read once."""

    def __init__(self, data: bytes, where: str):
        self.av, self.where = _library(where), where
        try:
            self.container = self.av.open(io.BytesIO(data))
            stream = self.container.streams.video[0]
            stream.codec_context.thread_count = 1  # data workers are the parallelism
            stream.codec_context.options = {"err_detect": "explode"}  # else it makes up what is damaged
            self.packets = list(self.container.demux(stream))
        except (self.av.FFmpegError, IndexError) as error:
            raise DataError(f"{where}: the AVI file cannot be read ({error}); download the file again") from error
        if len(self) != stream.frames or any(packet.is_corrupt for packet in self.packets):
            raise DataError(f"{where}: the AVI file is cut off; download the file again")

    def __len__(self) -> int:
        return sum(packet.size > 0 for packet in self.packets)  # the last one, empty, only makes the decoder finish

    def read(self, numbers: list[int], layout: str) -> list[np.ndarray]:
        """Decode from the last key frame before those wanted, for frames build on others; convert those wanted."""
        wanted, found = set(numbers), {}
        start = self.key_frame(min(numbers))
        try:
            for number, frame in zip(range(start, max(numbers) + 1), self.frames(start), strict=False):
                if number in wanted:
                    found[number] = to_array(frame, layout)
        except (self.av.FFmpegError, ValueError) as error:
            raise DataError(f"{self.where}: a frame cannot be decoded ({error}); download the file again") from error
        if len(found) < len(wanted):
            raise DataError(f"{self.where}: frame {min(wanted - found.keys())} is missing; download the file again")
        return [found[number] for number in numbers]

    def key_frame(self, number: int) -> int:
        """Return the last key frame that is not after a frame; 0 where packets are not in the order of the frames."""
        times = [packet.pts for packet in self.packets[: len(self)]]
        if any(time is None for time in times) or times != sorted(times):
            return 0
        return max((at for at in range(number + 1) if self.packets[at].is_keyframe), default=0)

    def frames(self, start: int) -> Iterator[Any]:
        """Yield decoded frames from a key frame on, one by one."""
        for packet in self.packets[start:]:
            yield from packet.decode()


def to_array(frame: Any, layout: str) -> np.ndarray:
    """Return a frame that PyAV decoded as (h w 3) uint8 if `layout` is rgb24, (h w) uint8 if it is gray."""
    return frame.to_ndarray(format=layout)


def _library(where: str) -> Any:
    try:
        import av  # here, because it is an optional library that only these files want
    except ImportError as error:
        raise DataError(
            f"{where}: published files of 2025 hold AVI videos, which PyAV reads: {INSTALL}. Or make the file again "
            "from the official download: python convert.py movi --help"
        ) from error
    return av
