"""Checks that the parts of a model fit together, made when it is built."""

from collections.abc import Sequence

from torch import Tensor


def require_equal(*pairs: tuple[str, object, str, object]) -> None:
    """Compare sizes of parts that meet; (name, size, name, size) each.

    Raises:
        ValueError: some differ; all of them are named.
    """
    faults = [
        f"{name} is {_plain(size)} but {other_name} is {_plain(other_size)}"
        for name, size, other_name, other_size in pairs
        if _plain(size) != _plain(other_size)
    ]
    if faults:
        raise ValueError("; ".join(faults))


def require_heads(dim: int, num_heads: int) -> None:
    """Raise `ValueError` if a width does not divide into heads of attention."""
    if dim % num_heads:
        raise ValueError(f"dim {dim} is no multiple of num_heads {num_heads}")


def require_shape(name: str, tensor: Tensor, shape: Sequence[int | None]) -> None:
    """Compare a tensor's shape; None stands for any size.

    Raises:
        ValueError: it differs.
    """
    given = tuple(tensor.shape)
    if len(given) != len(shape) or any(want not in (None, have) for want, have in zip(shape, given, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {given}, wanted ({wanted})")


def _plain(size: object) -> object:
    return list(size) if isinstance(size, tuple) else size
