"""Adjusted mutual information of two clusterings, from their contingency table."""

import torch
from torch import Tensor

TERMS = 2**22  # of the expectation, computed at once: 32 MiB per float64 temporary


def adjusted_mutual_information(table: Tensor, skip_background: bool = False) -> tuple[Tensor, Tensor]:
    """Compare two clusterings by what one tells about the other, adjusted for chance.

    Vinh, Epps and Bailey, JMLR 2010, with the arithmetic mean of both entropies: AMI = (I - E[I]) / (mean(H) - E[I]).
    Two equal partitions score 1, also where the quotient is 0 / 0.

    Args:
        table: (b k l) int64, from `contingency`.
        skip_background: drop column 0 first, so that background pixels count nowhere (AMI_fg).

    Returns:
        value: (b) float64, at most 1; 0 where not valid.
        valid: (b) bool, True where a pixel is left.
    """
    table = table[:, :, int(skip_background) :]
    rows, columns, pixels = table.sum(dim=2), table.sum(dim=1), table.sum(dim=(1, 2))
    expected = expected_mutual_information(rows, columns, pixels)
    # ratios first: sums of products of large logarithms would cancel
    ratio = (
        table.double() * pixels[:, None, None].double() / (rows[:, :, None] * columns[:, None]).clamp(min=1).double()
    )
    share = table.double() / pixels.clamp(min=1)[:, None, None].double()
    mutual = torch.where(table > 0, share * torch.where(table > 0, ratio, 1.0).log(), 0.0).sum(dim=(1, 2))
    spread = (_entropy(rows, pixels) + _entropy(columns, pixels)) / 2 - expected
    occupied = table > 0
    equal = (occupied.sum(dim=1) <= 1).all(dim=1) & (occupied.sum(dim=2) <= 1).all(dim=1)
    tiny = torch.finfo(torch.float64).eps
    value = torch.where(equal, 1.0, (mutual - expected) / torch.where(equal, 1.0, spread.clamp(min=tiny)))
    valid = pixels > 0
    return torch.where(valid, value, 0.0), valid


def expected_mutual_information(rows: Tensor, columns: Tensor, pixels: Tensor) -> Tensor:
    """Return the mean of mutual information (nats) over all tables with the given sums.

    Vinh et al., Eq. 24a: each entry is hypergeometric. Its terms are summed where they are not negligible, within
    9 standard deviations plus 36 of the mean; by Bernstein's inequality the rest has a probability below 1e-15.

    Args:
        rows: (b k) int64, sums of rows.
        columns: (b l) int64, sums of columns.
        pixels: (b) int64, sums of tables.

    Returns:
        (b) float64.
    """
    a, c = rows[:, :, None].expand(-1, -1, columns.shape[1]), columns[:, None].expand(-1, rows.shape[1], -1)
    n = pixels[:, None, None].expand_as(a)
    sample = torch.arange(len(rows), device=rows.device)[:, None, None].expand_as(a)
    there = (a > 0) & (c > 0)
    a, c, n, sample = (each[there] for each in (a, c, n, sample))
    mean = a.double() * c.double() / n.double()
    variance = mean * (1 - a.double() / n.double()) * (n - c).double() / (n - 1).clamp(min=1).double()
    width = 9 * variance.sqrt() + 36
    low = torch.maximum((mean - width).floor().long(), (a + c - n).clamp(min=1))
    high = torch.minimum((mean + width).ceil().long(), torch.minimum(a, c))
    counts = (high - low + 1).clamp(min=0)
    factorials = torch.lgamma(torch.arange(1, int(pixels.max()) + 2 if len(pixels) else 1, device=rows.device).double())
    fixed = factorials[a] + factorials[c] + factorials[n - a] + factorials[n - c] - factorials[n]
    result = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for piece in _pieces(counts):
        entry = torch.arange(piece.start, piece.stop, device=rows.device).repeat_interleave(counts[piece])
        first = counts[piece].cumsum(0) - counts[piece]
        x = torch.arange(len(entry), device=rows.device) - first[entry - piece.start] + low[entry]
        a_x, c_x, n_x = a[entry], c[entry], n[entry]
        rest = factorials[x] + factorials[a_x - x] + factorials[c_x - x] + factorials[n_x - a_x - c_x + x]
        x = x.double()
        term = x / n_x.double() * (x * n_x.double() / (a_x.double() * c_x.double())).log()
        result.index_add_(0, sample[entry], term * (fixed[entry] - rest).exp())
    return result


def _pieces(counts: Tensor) -> list[slice]:
    """Return slices of the entries that have about `TERMS` terms each."""
    total = counts.cumsum(0)
    if not len(total):
        return []
    ends = torch.arange(TERMS, int(total[-1]) + TERMS, TERMS, device=counts.device)
    stops = torch.unique(torch.searchsorted(total, ends).clamp(max=len(total) - 1) + 1).tolist()
    return [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def _entropy(counts: Tensor, pixels: Tensor) -> Tensor:
    """Return the entropy (nats) of the shares that counts (b k) have of pixels (b)."""
    share = counts.double() / pixels.clamp(min=1)[:, None].double()
    return -torch.xlogy(share, share).sum(dim=1)
