"""The folder of reference numbers, which OCL_GOLDEN_DIR may name."""

import pytest

KINDS = ("models", "metrics.npz", "lmdb")


@pytest.mark.parity
def test_folder_has_reference_numbers_of_some_kind(golden):
    """Each kind may be missing and its tests are skipped; a folder without any must not pass for agreement."""
    assert any((golden / kind).exists() for kind in KINDS), f"{golden} holds none of {', '.join(KINDS)}"
