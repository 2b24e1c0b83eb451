"""A training step of the full-size COCO configs on this machine: time, memory, FLOPs, share of the peak; and the loop.

The work to be done is what a plain eager implementation does in a step, counted once; work that is avoided counts as
speed. It is compared with the largest rate of a matrix product in the same precision, measured in turns with the steps:
bf16, or float32 on a CPU that has no instructions for it. Each config runs in a process of its own, with random weights
and random images, in the setting that it has by default (not compiled). `python -m benchmarks.step --all` prints all
COCO configs, `--compile` measures compiled ones.
"""

import argparse
import functools
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.table import Line, Options, markdown
from object_centric_bench import config

ROOT = Path(__file__).parents[1]
BATCH = 4
PLAIN = {  # config: GFLOP of a plain step at batch 4, share of the peak to be reached
    "config-slatesteve/slate_r_vqvae-coco.py": (110, 0.50),
    "config-dinosaur/dinosaur_r-coco.py": (465, 0.85),
    "config-vqdino/vqdino_tfd_r-coco.py": (87, 0.45),
    "config-vqdino/vqdino_mlp_r-coco.py": (499, 0.75),
    "config-vqdino/vqdino_dfz_r-coco.py": (119, 0.25),
}
LOOPS = {"config-demo/vvo_mlp-shapes.py": 128, "config-slatesteve/slate_r_vqvae-coco.py": 256}  # config: image size
LOOP_STEPS = 20
SIDE = 2048  # of the square matrices whose product gives the peak


def lines(options: Options) -> list[Line]:
    """Return time, memory and share of the peak for each config, and what the training loop adds to a step."""
    found = []
    for file, (work, target) in PLAIN.items():
        found += apart(step_lines, file, options, work, target)
    for file, size in LOOPS.items():
        found += apart(loop_lines, file, options, size)
    return found


def apart(function: Callable[..., list[Line]], *arguments: object) -> list[Line]:
    """Return a function's lines, computed in a fresh process, whose peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def step_lines(
    file: str, options: Options, work: float | None = None, target: float | None = None, compiled: bool = False
) -> list[Line]:
    """Return the lines of a config; `work` is that of a plain step in GFLOP."""
    step = make_step(file, options.device, compiled)
    step()
    memory = peak_memory(options.device)
    with Work() as work_done:
        if not compiled:
            step()
    name = Path(file).stem + (", compiled" if compiled else "")
    dtype = precision(options.device)
    product = matrix_product(options.device, dtype)
    steps, products = [], []
    for _ in range(options.rounds + 1):  # short turns: both are slowed by whatever else runs; the first warms up
        products.append(min(elapsed(product, options.device) for _ in range(3)))
        steps.append(elapsed(step, options.device))
    seconds, rate = min(steps[1:]), 2e-9 * SIDE**3 / min(products)
    found = [Line(f"{name}: a step", seconds, "s"), Line(f"{name}: peak memory", memory, "MiB")]
    if not compiled:
        found.append(Line(f"{name}: work", work_done.flops / 1e9, "GFLOP", work, "plain" if work else ""))
    if work is not None:
        found.append(Line(f"{name}: speed", work / seconds, "GFLOP/s", rate, f"peak in {dtype}", target, True))
    return found


class Work(TorchDispatchMode):
    """Counts the FLOPs of what runs inside, by torch's formulas.

    `FlopCounterMode` itself wants a graph behind every module's input, which the first iterations of slot attention,
    run without autograd, have not.
    """

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def make_step(file: str, device: str, compiled: bool) -> Callable[[], None]:
    """Return a function that does what a training step must: forward, loss, backward, clipping, optimizer."""
    run = make_run(file, device, picture_size(file), compiled)
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    batch = next(iter(run.train_batches(0)))
    for transform in run.batch_transforms:
        batch = transform({key: value.to(run.device) for key, value in batch.items()}, None)
    run.model.train()

    def step() -> None:
        from object_centric_bench.learn.run import compute_losses, forward

        run.optimizer.zero_grad(set_to_none=True)
        forward(run, raw)
        run.accelerator.backward(sum(compute_losses(run).values()))
        run.accelerator.clip_grad_norm_(parameters, run.max_grad_norm, run.grad_norm_type)
        run.optimizer.step()

    raw, run.batch_transforms = batch, []
    from object_centric_bench.learn.optimizer import train_mode

    train_mode(run.model)
    return step


def make_run(file: str, device: str, size: int, compiled: bool = False) -> "Run":  # noqa: F821
    """Return a run of a config with random weights and one batch of noise, `size` pixels, that comes again and again.

    It writes and saves nothing: the callbacks are those that work in every step.
    """
    import inspect

    from object_centric_bench import experiment
    from object_centric_bench.engine import keep_freed_memory, make_accelerator, prepare, seed_everything
    from object_centric_bench.learn.optimizer import freeze, parameter_groups
    from object_centric_bench.learn.run import Run
    from object_centric_bench.model.compilation import compile_parts
    from object_centric_bench.registry import build

    cfg = experiment.complete(config.load(ROOT / file, ["pretrained=False"] if "demo" not in file else []))
    if "demo" in file:
        cfg["model"]["backbone"] |= dict(pretrained=False, weights=None)
    seed_everything(0)
    keep_freed_memory(device)  # as train.py does
    accelerator = make_accelerator(device, cfg["precision"])
    network = build(cfg["model"], "model")
    freeze(network, cfg["freeze"])
    if compiled:
        compile_parts(network)
    groups = parameter_groups(network, cfg["parameter_groups"], cfg["optimizer"]["lr"])
    network.to(accelerator.device)
    optimizer = build(cfg["optimizer"], "optimizer", params=groups)
    inputs = tuple(inspect.signature(network.forward).parameters)
    network, optimizer = prepare(accelerator, network, optimizer)
    samples = BATCH if "demo" not in file else cfg["dataset"]["batch_size"]
    batch = noise(samples, size)
    return Run(
        model=network,
        loss=build(cfg["loss"], "loss"),
        metric=build(cfg["metric"], "metric"),
        optimizer=optimizer,
        accelerator=accelerator,
        callbacks=build([node for node in cfg["callback"] if node["type"] not in ("Log", "Save")], "callback"),
        batch_transforms=build(cfg["dataset"]["batch_transforms"], "dataset.batch_transforms"),
        train_batches=lambda step: (batch for _ in range(LOOP_STEPS)),
        eval_batches=lambda: (),
        setters={},
        total_steps=10**9,
        eval_every=10**9,
        metric_every=cfg["metric_every"],
        max_grad_norm=cfg["max_grad_norm"],
        seed=0,
        cfg=cfg,
        eval_length=0,
        source_id=str,
        inputs=inputs,
        grad_norm_type=float(cfg["grad_norm_type"]),
    )


def noise(samples: int, size: int) -> dict[str, Tensor]:
    """Return a batch as the loader gives it: pictures, segments of squares, indices."""
    segment = torch.randint(7, (samples, size // 16, size // 16), dtype=torch.uint8)
    segment = segment.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    image = torch.randint(256, (samples, 3, size, size), dtype=torch.uint8)
    return {"image": image, "segment": segment, "index": torch.arange(samples)}


def picture_size(file: str) -> int:
    """Return the side of a config's square pictures, pixels."""
    transforms = config.load(ROOT / file)["dataset"]["train"]["transforms"]
    size = next(each["size"] for each in transforms if each["type"] == "Resize")
    return size if isinstance(size, int) else size[0]


def coco_configs() -> list[str]:
    """Return the files of all COCO configs, those with a target first; of several names of one config the first."""
    found: dict[str, str] = {}
    for file in [*PLAIN, *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("config-*/*coco*.py"))]:
        found.setdefault(repr(config.load(ROOT / file)), file)
    return list(found.values())


def precision(device: str) -> torch.dtype:
    """Return the type that most of a step's products have there by default, or bf16 for fp16, which is as fast."""
    from object_centric_bench.engine import native_bf16

    return torch.float32 if device == "cpu" and not native_bf16() else torch.bfloat16


def matrix_product(device: str, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that multiplies two matrices."""
    left, right = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def elapsed(function: Callable[[], object], device: str) -> float:
    """Return the seconds of a call, on a GPU until it is done."""
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(device: str) -> float:
    """Return the most memory that this process held so far, in MiB: of the GPU, or on a CPU of all."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def loop_lines(file: str, options: Options, size: int) -> list[Line]:
    """Return the time of a step in the training loop beside that of what must be done in it, from the same steps."""
    import tempfile

    from object_centric_bench.learn.log import Log
    from object_centric_bench.learn.loop import train

    run = make_run(file, options.device, size)
    core = [0.0]

    def timed(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*arguments: object, **named: object) -> object:
            result = []
            core[0] += elapsed(lambda: result.append(function(*arguments, **named)), options.device)
            return result[0]

        return call

    run.model.forward = timed(run.model.forward)
    run.loss = {name: timed(loss) for name, loss in run.loss.items()}
    run.optimizer.step = timed(run.optimizer.step)
    for name in ("backward", "clip_grad_norm_"):
        setattr(run.accelerator, name, timed(getattr(run.accelerator, name)))
    best = None
    with tempfile.TemporaryDirectory() as folder:
        run.folder = Path(folder)
        run.callbacks.append(Log(every=10, tensorboard=False))
        for _ in range(max(2, options.rounds)):
            core[0] = 0.0
            whole = elapsed(lambda: train(run), options.device)
            if best is None or whole / core[0] < best[0] / best[1]:
                best = whole, core[0]
    whole, inner = (1e3 * seconds / LOOP_STEPS for seconds in best)
    return [Line(f"{Path(file).stem}: a step in the loop", whole, "ms", inner, "forward to optimizer", 0.95)]


def main() -> None:
    """Print the lines of all COCO configs, or of the compiled ones."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="time and memory of all COCO configs")
    parser.add_argument("--compile", action="store_true", help="compiled; takes minutes per config")
    parser.add_argument("--rounds", type=int, default=Options().rounds)
    parser.add_argument("--device", default=Options().device)
    arguments = parser.parse_args()
    options = Options(arguments.rounds, arguments.device)
    if not arguments.all and not arguments.compile:
        print(markdown(lines(options)))
        return
    found = []
    for file in coco_configs() if arguments.all else PLAIN:
        found += apart(step_lines, file, options, *PLAIN.get(file, (None, None)), arguments.compile)
    print(markdown(found))


if __name__ == "__main__":
    main()
