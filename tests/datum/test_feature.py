"""Features kept with a dataset: each stays with its image."""

import numpy as np
import pytest
import torch

from object_centric_bench.datum import shapes
from object_centric_bench.datum.feature import WithFeature
from object_centric_bench.datum.loader import batches


@pytest.fixture
def dataset(tmp_path):
    shapes.convert(tmp_path, num_train=6, num_val=1, size=32)
    return shapes.Shapes("train.lmdb", ["image"], data_dir=str(tmp_path))


def test_every_sample_gets_its_own_feature_in_any_order(dataset):
    features = torch.arange(6.0)[:, None, None, None].expand(6, 2, 3, 3)
    with_feature = WithFeature(dataset, features)
    assert len(with_feature) == 6
    assert with_feature.source_id(3) == dataset.source_id(3)
    for batch in batches(with_feature, 4, seed=1, start_step=0, total_steps=4, num_workers=0):
        assert torch.equal(batch["feature"][:, 0, 0, 0], batch["index"].float())
        rng = np.random.default_rng(0)
        expected = torch.stack([dataset.sample(int(i), rng)["image"] for i in batch["index"]])
        assert torch.equal(batch["image"], expected)


def test_a_wrong_number_of_features_is_refused(dataset):
    with pytest.raises(ValueError, match="5 features for 6 images"):
        WithFeature(dataset, torch.zeros(5, 1, 1, 1))
