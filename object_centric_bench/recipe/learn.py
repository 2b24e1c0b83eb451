"""Ingredients for learning: optimizer with its schedule, segmentation with its metric, logging with checkpoints."""


def adam_with_warmup(lr: float, total_steps: int, max_grad_norm: float = 1.0, warmup_steps: int | None = None) -> dict:
    """Adam; its rate rises linearly over the first steps, then falls to a thousandth along a cosine.

    Evaluation is due every 1/40 of the run.

    Args:
        lr: peak learning rate.
        total_steps: optimizer steps.
        max_grad_norm: to which the gradient's norm is clipped.
        warmup_steps: steps of the rise; None = 5 %.
    """
    warmup_steps = total_steps // 20 if warmup_steps is None else warmup_steps
    steps = dict(warmup_steps=warmup_steps, total_steps=total_steps)
    return adam(lr, dict(type="LinearCosine", **steps, start=0.0, peak=1.0, final=1e-3), max_grad_norm)


def adam(lr: float, factor: dict, max_grad_norm: float) -> dict:
    """Adam, whose rate is multiplied by a schedule; evaluation is due every 1/40 of its `total_steps`."""
    total_steps = factor["total_steps"]
    return dict(
        optimizer=dict(type="Adam", lr=lr),
        schedule=dict(optimizer=dict(lr_factor=factor)),
        total_steps=total_steps,
        eval_every=max(total_steps // 40, 1),
        max_grad_norm=max_grad_norm,
    )


def segmentation(mask: str, size: list[int], best: str = "mbo", ignore: str | None = None, from_step: int = 0) -> dict:
    """Masks at `mask` become index maps of `size` [h, w] and are scored.

    Args:
        mask: path of the masks.
        size: of the index maps, pixels.
        best: the score by which the best checkpoint is chosen.
        ignore: path of a bool map, such as `batch.ignore` of VOC, of pixels that are not scored.
        from_step: the first step whose checkpoint may be the best; the published runs keep those of the second half.
    """
    metric = dict(type="Segmentation", prediction="output.segment", target="batch.segment")
    if ignore is not None:
        metric["ignore"] = ignore
    return dict(
        metric=[metric],
        callback=[dict(type="MaskToSegment", mask=mask, size=size), *keeping(best, higher=True, from_step=from_step)],
    )


def reconstruction(image: str = "batch.image", best: str = "recon", from_step: int = 0) -> dict:
    """Stage 1: the target is the picture at the reconstruction's size; the best checkpoint has the lowest error.

    Args:
        image: path of the pictures or videos.
        best: name of the loss term that is this error.
        from_step: the first step whose checkpoint may be the best.
    """
    kept = keeping(best, higher=False, from_step=from_step)
    return dict(callback=[dict(type="ReconstructionTarget", image=image), *kept])


def keeping(best: str, higher: bool, from_step: int) -> list[dict]:
    """Return the callbacks that every run has: the log, and the checkpoints `last` and `best`."""
    return [dict(type="Log", every=50, wandb=None), dict(type="Save", best=best, higher=higher, from_step=from_step)]
