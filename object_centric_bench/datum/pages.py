"""The pages of an LMDB file, looked through before LMDB itself follows them: it trusts what they say.

A number that is wrong there, by damage or on purpose, makes LMDB read beyond the file, which kills the process. Keys
and values are not read, only the pages that lead to them: about one in 170 records if these are pictures.

Layout (64 bit, little endian), as in LMDB 0.9: a page begins with its number (8 bytes), 2 unused bytes, flags (2), and
lower and upper end of the free room (2 each), followed by the places of its nodes (2 each). A node has its size or the
lower half of a page number (4), flags or the rest of that number (2), the length of its key (2), the key, and in leaves
the value, or the number (8) of the first page of a value that is larger.
"""

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .record import DataError

PAGE_HEAD, NODE_HEAD, DEEPEST = 16, 8, 32  # bytes, bytes, levels of a tree
BRANCH, LEAF, KINDS = 1, 2, 0x6F  # flags of pages; the last leaves out marks that mean nothing in a file
BIG = 1  # flag of a node whose value has pages of its own


class Meta(NamedTuple):
    """What a meta page says: bytes per page, flags of the tree, records, root, last page, the transaction's number."""

    page_size: int
    flags: int
    entries: int
    root: int
    last_page: int
    transaction: int


def read_meta(page: bytes) -> Meta | None:
    """Return what a meta page says, None if it is none."""
    if len(page) < 152 or struct.unpack_from("<II", page, 16) != (0xBEEFC0DE, 1):
        return None
    (page_size,) = struct.unpack_from("<I", page, 40)
    (flags,) = struct.unpack_from("<H", page, 92)
    entries, root, last_page, transaction = struct.unpack_from("<QQQQ", page, 120)
    if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
        return None
    return Meta(page_size, flags, entries, root, last_page, transaction)


def newest(first: Meta, second: Meta | None) -> Meta:
    """Return the meta page that LMDB goes by."""
    return first if second is None or second.transaction <= first.transaction else second


def check_tree(file: Path, again: str) -> None:
    """Look through the pages that lead to the records.

    Args:
        file: whose size was compared with its meta pages.
        again: what to do about a damaged file, for the message.

    Raises:
        DataError: a page is damaged.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        first = read_meta(mapped[:4096])
        second = None if first is None else read_meta(mapped[first.page_size : first.page_size + 4096])
        try:
            if first is None or second is None or second.page_size != first.page_size:
                raise ValueError("its meta pages differ")
            meta = newest(first, second)
            if meta.flags:
                raise ValueError(f"its records are of another kind ({meta.flags})")
            if meta.root != (1 << 64) - 1:  # which means: no record at all
                _walk(mapped, meta)
        except ValueError as error:
            raise DataError(f"{file} is damaged: {error}; {again}") from error


def _walk(mapped: mmap.mmap, meta: Meta) -> None:
    """Check all pages from the root on, level by level, each once."""
    seen, level = set(), [meta.root]
    for _ in range(DEEPEST):
        below = []
        for number in level:
            if number in seen or not 1 < number <= meta.last_page:
                raise ValueError(f"page {number} is out of place")
            seen.add(number)
            start = number * meta.page_size
            below += _children(mapped[start : start + meta.page_size], number, meta)
        if not below:
            return
        level = below
    raise ValueError("its tree has no end")


def _children(page: bytes, number: int, meta: Meta) -> list[int]:
    """Check a page; return the numbers of those below it, none for a leaf."""
    own, _, flags, lower, upper = struct.unpack_from("<QHHHH", page)
    kind, count = flags & KINDS, (lower - PAGE_HEAD) // 2
    if own != number or kind not in (BRANCH, LEAF) or not PAGE_HEAD < lower <= upper <= len(page) or lower % 2:
        raise ValueError(f"page {number} has a wrong head")
    if kind == BRANCH and count < 2:
        raise ValueError(f"page {number} leads to a single one")
    places = np.frombuffer(page, "<u2", count, PAGE_HEAD).astype(np.int64)
    if places.min() < lower or places.max() > len(page) - NODE_HEAD or (places % 2).any():
        raise ValueError(f"page {number} has a node outside of it")
    halves = np.frombuffer(page, "<u2").astype(np.int64)
    low, high, node_flags, key = (halves[places // 2 + k] for k in range(4))
    size = low | high << 16
    ends = places + NODE_HEAD + key
    if kind == BRANCH:
        if ends.max() > len(page):
            raise ValueError(f"page {number} has a key that is too long")
        return (size | node_flags << 32).tolist()
    big = node_flags == BIG
    if (node_flags & ~BIG).any() or (ends + np.where(big, 8, size)).max() > len(page):
        raise ValueError(f"page {number} has a value that is too long")
    for place, length in zip(ends[big].tolist(), size[big].tolist(), strict=True):
        (begin,) = struct.unpack_from("<Q", page, place)
        if not 1 < begin <= meta.last_page - -(-(PAGE_HEAD + length) // meta.page_size) + 1:
            raise ValueError(f"page {number} has a value beyond the file's end")
    return []
