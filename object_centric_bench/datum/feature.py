"""A dataset together with features of its images that were computed before."""

import numpy as np
from torch import Tensor

from .dataset import Dataset


class WithFeature:
    """A dataset whose samples also hold `feature`, the backbone's output for the image.

    Only for datasets that are not augmented: the feature of a sample never changes.

    Args:
        dataset: the images.
        features: (n c h w) float, one per sample, in the dataset's order.

    Raises:
        ValueError: their numbers differ.
    """

    def __init__(self, dataset: Dataset, features: Tensor):
        if len(dataset) != len(features):
            raise ValueError(f"{len(features)} features for {len(dataset)} images")
        self.dataset, self.features = dataset, features

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the dataset's sample with `feature` (c h w) float added."""
        return {**self.dataset.sample(index, rng), "feature": self.features[index]}

    def source_id(self, index: int) -> str:
        """Return the name of the image at its source."""
        return self.dataset.source_id(index)
