"""Memory: telling what to do when it runs out, and finding how many samples fit through the model at once."""

import gc
from collections.abc import Callable

import torch

from .run import Run, apply_schedules
from .step import pieces, run_piece

# PyTorch's words where it raises no `OutOfMemoryError`: on a CPU, and from CUDA's libraries
WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the device's memory, or the machine's, is full."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def advice(run: Run, error: BaseException) -> str:
    """Return what was too large, and the setting that halves it."""
    batch = run.raw or {}
    samples = len(batch["index"]) if "index" in batch else 0
    seen = {name: entry for name, entry in batch.items() if name in ("image", "video", "feature")}
    sizes = ", ".join(f"{name} {' x '.join(map(str, entry.shape[1:]))}" for name, entry in seen.items())
    if run.network.training:
        half = f"micro_batch={max(samples // 2, 1)} halves it and changes no gradient but by rounding, or "
        setting = f"{half if samples > 1 else ''}micro_batch=auto finds what fits"
    else:
        setting = f"dataset.eval_batch_size={max(samples // 2, 1)} halves it"
    first = str(error).strip().splitlines()[0]
    return (
        f"out of memory on {run.device} at step {run.step}, with {samples} samples at once ({sizes}): {setting}; "
        f"a lower resolution needs less too. PyTorch says: {first}"
    )


def fewest_pieces(size: int, fits: Callable[[int], bool]) -> int | None:
    """Return the smallest number of pieces of a batch that fit, None if not even single samples do.

    The number is doubled until the pieces fit, then what lies between is halved: at most 2 log2(size) + 1 tries. Of
    numbers that make pieces of one size, the smallest stands for all.

    Args:
        size: samples of the batch.
        fits: number of samples -> whether so many go through the model at once.
    """

    def works(count: int) -> bool:
        samples = -(-size // count)
        if samples not in known:
            known[samples] = fits(samples)
        return known[samples]

    known: dict[int, bool] = {}
    low, high = 0, 1  # too few, and to be tried
    while not works(high):
        if high == size:
            return None
        low, high = high, min(2 * high, size)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def find_micro_batch(run: Run, batch: dict) -> int:
    """Return the largest number of samples that fit through the model and back at once, in every process.

    Each try is a forward and backward pass beside memory as large as the optimizer's state will be. It changes no
    weight, and noise is drawn anew in every step anyhow.

    Raises:
        TrainingStopped, OutOfMemoryError: not even one sample fits.
    """
    apply_schedules(run)
    size = len(batch["index"])
    state = [] if run.optimizer.state_dict()["state"] else [p for p in run.network.parameters() if p.requires_grad]

    def fits(samples: int) -> bool:
        part = next(pieces(batch, -(-size // samples)))
        full = None
        try:
            reserved = [torch.empty_like(parameter) for parameter in [*state, *state]]
            with run.accelerator.no_sync(run.model):
                run_piece(run, part, 0, 1.0)
            del reserved
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or samples == 1:
                raise
            full = str(error)
        release(run)  # only here: an error that is being handled keeps alive what its frames hold
        return full is None

    count = fewest_pieces(size, fits) or size  # single samples fit, or `fits` has raised
    return min(run.processes.gather(-(-size // count)))


def release(run: Run) -> None:
    """Give back what the present step holds."""
    run.output, run.batch, run.losses = {}, {}, {}
    run.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
