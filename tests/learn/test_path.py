"""Reading entries by path."""

import pytest
import torch

from object_centric_bench.learn.path import fetch, fetch_tensor
from object_centric_bench.registry import ConfigError

BATCH = {"image": torch.zeros(2, 3, 4, 4), "index": [7, 8]}
OUTPUT = {"mask": torch.ones(2, 5, 4, 4), "feature": [torch.zeros(1), torch.ones(1)], "code": {"fine": torch.ones(2)}}


def test_reads_keys_nested_keys_and_list_indices():
    assert fetch("batch.image", BATCH, OUTPUT) is BATCH["image"]
    assert fetch("output.feature.1", BATCH, OUTPUT) is OUTPUT["feature"][1]
    assert fetch("output.code.fine", BATCH, OUTPUT) is OUTPUT["code"]["fine"]
    assert fetch("output.feature", BATCH, OUTPUT) is OUTPUT["feature"]
    assert fetch("batch", BATCH, OUTPUT) is BATCH


def test_wrong_path_names_entry_nearest_and_existing_paths():
    with pytest.raises(ConfigError) as caught:
        fetch("output.maks", BATCH, OUTPUT, "MSE.prediction")
    assert str(caught.value) == (
        "MSE.prediction: there is no 'output.maks'; did you mean 'output.mask'? paths that exist: batch.image, "
        "batch.index.0, batch.index.1, output.code.fine, output.feature.0, output.feature.1, output.mask"
    )


@pytest.mark.parametrize(
    "path", ["", "image", "output.feature.2", "output.feature.-1", "output.mask.0", "output.", "output.code.fine.x"]
)
def test_paths_that_lead_nowhere(path):
    with pytest.raises(ConfigError, match=r"paths that exist: batch\.image"):
        fetch(path, BATCH, OUTPUT)


def test_empty_batch_and_output():
    with pytest.raises(ConfigError, match="paths that exist: none"):
        fetch("output.mask", {}, {})


def test_only_tensors_where_a_tensor_is_needed():
    assert fetch_tensor("batch.image", BATCH, OUTPUT) is BATCH["image"]
    with pytest.raises(ConfigError, match=r"MSE\.target: 'output\.feature' is a list, not a tensor"):
        fetch_tensor("output.feature", BATCH, OUTPUT, "MSE.target")
