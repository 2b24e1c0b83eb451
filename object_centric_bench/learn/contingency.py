"""The contingency table, counts of (predicted id, true id) pairs, that all scores of segmentations come from."""

import torch
from torch import Tensor

DENSE_ENTRIES = 2**22  # a larger batch of tables is made from compacted ids: sorting pixels is then the smaller cost
PIECE_ENTRIES = 2**24  # images whose tables are scored at once: 128 MiB per float64 temporary
LARGEST_TABLE = 2**31  # entries, 16 GiB; more is a mistake, such as an instance id per pixel


def contingency(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Count, per sample, the pixels of each (predicted id, true id) pair, by one bincount for the whole batch.

    Column 0 always belongs to the true id 0, the background. While the table of all ids up to the largest is small,
    row i and column j are the ids themselves; otherwise they are the ranks of the ids that the sample holds.

    Args:
        prediction: (b n) integer, ids >= 0.
        target: (b n) integer, ids >= 0, 0 = background.
        valid: (b n) bool, pixels to count; None = all.

    Returns:
        (b k l) int64, k and l the largest numbers of ids in the batch; samples with fewer have zero rows and columns.

    Raises:
        ValueError: the shapes differ, an id is negative or no integer, or the table would not fit into memory.
    """
    prediction, target, rows, columns = compact(prediction, target)
    return count_pairs(prediction, target, rows, columns, valid)


def parts(samples: int, entries: int) -> list[slice]:
    """Return the pieces of a batch, one at least, in which tables of that many entries per sample fit into memory."""
    size = max(1, PIECE_ENTRIES // entries)
    return [slice(start, start + size) for start in range(0, max(samples, 1), size)]


def join(pieces: list[dict[str, tuple[Tensor, Tensor]]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the scores of pieces of a batch as those of the batch."""
    return {
        name: (torch.cat([piece[name][0] for piece in pieces]), torch.cat([piece[name][1] for piece in pieces]))
        for name in pieces[0]
    }


def compact(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """Check the ids (b n) and make them small; return them with the table's numbers of rows and columns.

    Raises:
        ValueError: the shapes differ, or an id is negative or no integer.
    """
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise ValueError(f"two index maps (b n) are needed, got {tuple(prediction.shape)} and {tuple(target.shape)}")
    prediction, target = _integer(prediction, "prediction"), _integer(target, "target")
    if prediction.numel() == 0:
        return prediction, target, 1, 1
    bounds = [bound.long() for ids in (prediction, target) for bound in ids.aminmax()]
    low, high, true_low, true_high = torch.stack(bounds).tolist()  # the only wait for the device
    if low < 0 or true_low < 0:
        raise ValueError(f"ids must be >= 0, the smallest are {low} in the prediction and {true_low} in the target")
    rows, columns = high + 1, true_high + 1
    if len(prediction) * rows * columns > DENSE_ENTRIES:
        prediction, rows = _rank(prediction)
        background = target.new_zeros(len(target), 1)  # gives id 0 the rank 0 where a sample lacks it
        target, columns = _rank(torch.cat([background, target], dim=1))
        target = target[:, 1:]
    return prediction, target, rows, columns


def _integer(ids: Tensor, name: str) -> Tensor:
    """Return ids of a type that PyTorch can calculate with."""
    if ids.is_floating_point() or ids.is_complex():
        raise ValueError(f"{name} must hold integer ids, not {ids.dtype}")
    if ids.dtype == torch.bool:
        return ids.to(torch.uint8)
    return ids.long() if ids.dtype in (torch.uint16, torch.uint32, torch.uint64) else ids


def _rank(ids: Tensor) -> tuple[Tensor, int]:
    """Replace each id (b n) by its rank among the ids of its sample; return the largest number of ids as well."""
    width = int(ids.max()) + 1
    offsets = torch.arange(len(ids) + 1, device=ids.device) * width
    values, ranks = torch.unique(ids.long() + offsets[:-1, None], return_inverse=True)  # sorted: sample after sample
    first = torch.searchsorted(values, offsets)
    return ranks - first[:-1, None], int(first.diff().max())


def count_pairs(prediction: Tensor, target: Tensor, rows: int, columns: int, valid: Tensor | None = None) -> Tensor:
    """Make the table (b k l) int64 from ids (b n) below `rows` and `columns`; see `contingency`."""
    batch_size, entries = len(prediction), len(prediction) * rows * columns
    if entries > LARGEST_TABLE:
        raise ValueError(f"{rows} predicted and {columns} true segments in {batch_size} samples: too many for a table")
    # the smallest type that holds every index: with int16, 32 pairs of 256 x 256 take a tenth of the time of int64
    fitting = (dtype for dtype in (torch.int16, torch.int32, torch.int64) if entries <= torch.iinfo(dtype).max)
    dtype = next(fitting)
    offsets = torch.arange(batch_size, device=prediction.device)[:, None] * (rows * columns)
    # all of one type: PyTorch converts mixed ones number by number
    index = torch.add(target.to(dtype), prediction.to(dtype), alpha=columns).add_(offsets.to(dtype))
    if valid is not None:
        if valid.shape != index.shape or valid.dtype != torch.bool:
            raise ValueError(f"valid must be {tuple(index.shape)} bool, not {tuple(valid.shape)} {valid.dtype}")
        index = torch.where(valid, index, entries)  # a bin of their own, dropped below
    table = torch.bincount(index.flatten(), minlength=entries)
    return table[:entries].view(batch_size, rows, columns)
