"""Examples: data sets as tensors on the device, and each replica's batches from them."""

from lab.data.batches import BLOCK_INDICES, Batches
from lab.data.dataset import Dataset, load
from lab.data.sources import SOURCES

__all__ = ["BLOCK_INDICES", "SOURCES", "Batches", "Dataset", "load"]
