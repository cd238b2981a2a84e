"""What a run is: the dataclasses of its options, their ranges and rules, and its identity. No torch, NumPy or Hydra."""

from lab.schema.config import *  # noqa: F403
from lab.schema.errors import *  # noqa: F403
from lab.schema.fields import *  # noqa: F403
from lab.schema.identity import *  # noqa: F403
from lab.schema.options import *  # noqa: F403
from lab.schema.rules import *  # noqa: F403
