"""The engine that runs a model: device, precision, seeds."""

import ctypes
import os
import random
import sys
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn
from torch.optim import Optimizer

from .registry import ConfigError

PRECISIONS = ("auto", "no", "bf16", "fp16")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # options of glibc's mallopt, of malloc.h
TIMEOUT = timedelta(minutes=10)  # for which a process waits for another in a step; the launcher tells of a dead one


def make_accelerator(device: str, precision: str, find_unused_parameters: bool = False) -> Accelerator:
    """Return the engine for device and mixed precision.

    `auto` precision is fp16 with gradient scaling on CUDA, bf16 on CPUs with native bf16 instructions, else none.

    Raises:
        ConfigError: the device is not there, or cannot do that precision.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device!r}: use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this PyTorch finds no CUDA device; use --device cpu")
    cpu = is_cpu(device)
    if precision == "auto":
        precision = ("bf16" if native_bf16() else "no") if cpu else "fp16"
    if cpu and precision == "fp16":
        raise ConfigError("precision: fp16 needs a CUDA device; use auto, bf16 or no")
    AcceleratorState._reset_state(True)  # a second run in this process may use another precision
    options = [
        InitProcessGroupKwargs(timeout=TIMEOUT),
        DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters),
    ]
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=options)


def prepare(accelerator: Accelerator, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
    """Have the engine take over model and optimizer; the model keeps the precision of its outputs.

    Accelerate would copy every output to float32, also logits of thousands of classes, in each step there and back.
    Who runs the model enters `accelerator.autocast()` instead.
    """
    network, optimizer = accelerator.prepare(network, optimizer)
    accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    return network, optimizer


def is_cpu(device: str) -> bool:
    """Tell whether a `--device` comes down to the CPU here."""
    return device == "cpu" or not torch.cuda.is_available()


def keep_freed_memory(device: str) -> None:
    """Have a process that computes on the CPU use large blocks of memory again instead of giving them back.

    By default each tensor of more than 32 MiB, and most of more than 128 KiB, comes as fresh pages from the system,
    which zeroes them one by one; that is a tenth to a quarter of a training step. In return the process holds its peak
    of memory until it ends, so this is for commands, not for a library in somebody's program. It needs Linux and glibc;
    elsewhere, and on a GPU, nothing happens.

    Args:
        device: as `--device` takes it.
    """
    if not is_cpu(device) or not sys.platform.startswith("linux"):
        return
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is None:  # another C library
        return
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20)):
        adjust(option, value)


def keep_buffers(network: nn.Module) -> None:
    """Have `DistributedDataParallel` leave a model's buffers alone.

    By default the main process sends all of them, codebooks' bases among them, to the others in every step. Here none
    changes while training, and equal seeds and checkpoints make them equal.
    """
    names = [name for name, _ in network.named_buffers()]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, names)


def native_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX); emulated bf16 is slower than float32."""
    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(probe() for probe in probes if probe is not None)


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed the global generators; on CUDA also choose between fast and deterministic kernels.

    Args:
        seed: of all of them.
        deterministic: on CUDA ask for kernels that give the same bits in every run, where there are any. Otherwise
            cuDNN tries which ones are the fastest, and float32 products round to TF32.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not deterministic
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
