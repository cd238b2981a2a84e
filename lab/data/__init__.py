"""Examples: data sets as tensors on the device, and each replica's batches from them."""

from lab.data.batches import *  # noqa: F403
from lab.data.dataset import *  # noqa: F403
from lab.data.sources import *  # noqa: F403
