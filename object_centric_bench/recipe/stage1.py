"""First stages: learn codes from which the image can be decoded."""

from . import learn

SCALES = 3  # of the multi-scale tokenizer
SMALLEST_PERCEPTIBLE = 62  # pixels: twice what AlexNet's second pooling needs


def stage1(
    model: dict,
    dataset: dict,
    total_steps: int,
    lr: float,
    freeze: list[str],
    norm: bool = True,
    joint_norm: bool = False,
    perceptual: dict | None = None,
    schedule: dict | None = None,
    scales: int | None = None,
) -> dict:
    """Return the whole config of a first stage.

    Args:
        model: has a `tokenizer`, and gives latent, quantized, mixed and reconstruction.
        dataset: the dataset section.
        total_steps: optimizer steps.
        lr: peak learning rate.
        freeze: regular expressions of the parameters that are not trained.
        norm: pull latents to zero mean and unit variance, which tokenizers with a projected codebook need.
        joint_norm: for videos, over a whole clip, as in the reference; False takes each frame by itself.
        perceptual: the LPIPS loss's further arguments; None leaves the loss out.
        schedule: of the tokenizer's attributes, see `projected`.
        scales: number of scales if the model's outputs are lists; None if they are tensors.
    """
    suffixes = [""] if scales is None else [f".{scale}" for scale in range(scales)]
    settings = learn.adam_with_warmup(lr=lr, total_steps=total_steps)
    if schedule:
        settings["schedule"]["model"] = dict(tokenizer=schedule)
    losses: dict[str, dict] = {}
    for suffix in suffixes:
        terms: dict[str, dict] = dict(
            recon=dict(type="MSE", prediction=f"output.reconstruction{suffix}", target=f"batch.target{suffix}"),
            align=dict(type="MSE", prediction=f"output.quantized{suffix}", target=f"output.latent{suffix}"),
            commit=dict(type="MSE", prediction=f"output.latent{suffix}", target=f"output.mixed{suffix}", weight=0.25),
        )
        if norm:
            options = dict(joint=True) if joint_norm else {}
            terms["norm"] = dict(type="UnitNorm", prediction=f"output.latent{suffix}", weight=0.1, **options)
        losses |= {name + suffix.replace(".", ""): loss for name, loss in terms.items()}
    if perceptual is not None:  # of several scales, on the finest
        require_perceptible(dataset)
        paths = dict(prediction=f"output.reconstruction{suffixes[0]}", target=f"batch.target{suffixes[0]}")
        losses["lpips"] = dict(type="LPIPS", **paths, rescale=True, weights=None, **perceptual)
    error = next(iter(losses))  # while latents fade to codes, it is not that of codes
    target = learn.reconstruction(f"batch.{dataset['train']['keys'][0]}", best=error, from_step=total_steps // 2)
    return dict(dataset=dataset, model=model, freeze=freeze, loss=losses, **target, **settings)


def require_perceptible(dataset: dict) -> None:
    """Raise `ValueError` if pictures are so small that AlexNet, which LPIPS looks with, has nothing left to pool."""
    sizes = [each["size"] for each in dataset["train"]["transforms"] if each["type"] == "Resize"]
    if sizes and min(sizes[0]) < SMALLEST_PERCEPTIBLE:
        raise ValueError(
            f"resolution {sizes[0][0]} is too small for loss.lpips, which compares reconstructions of half that size: "
            f"{SMALLEST_PERCEPTIBLE} pixels are needed"
        )


def projected(total_steps: int, logit_scale: float, anneal: bool, scale_at: tuple[str, ...] = ("quantizer",)) -> dict:
    """Return the schedule of a tokenizer with a projected codebook.

    Args:
        total_steps: optimizer steps.
        logit_scale: inverse temperature of drawing codes at the end; it starts at 1.
        anneal: fade from unquantized to quantized latents in the first half; otherwise the decoder never sees codes.
        scale_at: path of what has the `logit_scale`, below the tokenizer.
    """
    mix = dict(type="Constant", value=1.0)
    if anneal:
        mix = dict(type="CosineLinear", total_steps=total_steps, cosine_steps=total_steps // 2, start=1.0, middle=0.0)
    scale: dict = dict(logit_scale=dict(type="LogCosine", total_steps=total_steps, start=1.0, final=logit_scale))
    for key in reversed(scale_at):
        scale = {key: scale}
    return dict(latent_mix=mix, **scale)
