"""Dataset: training and held-out examples as tensors on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lab import schema
from lab.data.sources import SOURCES


@dataclass(frozen=True)
class Dataset:
    """Training and held-out examples: x (n, features) in the network's dtype, y (n,) int64 labels below `classes`."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @property
    def features(self) -> int:
        return self.train_x.shape[1]


def load(config: schema.Data, dtype: torch.dtype, device: torch.device) -> Dataset:
    """Load the data set that `config` names.

    Raises:
        ConfigError: it cannot be fetched, or the user's file cannot be used.
    """
    split, classes = SOURCES[config.name](config)
    train_x, test_x = (torch.from_numpy(x).to(dtype).to(device) for x in (split.train_x, split.test_x))
    train_y, test_y = (torch.from_numpy(y).to(device) for y in (split.train_y, split.test_y))
    return Dataset(train_x, train_y, test_x, test_y, classes)
