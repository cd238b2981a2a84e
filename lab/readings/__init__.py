"""The vocabulary of what is measured: quantities with their units, records, and the table of a run."""

from lab.readings.quantities import *  # noqa: F403
from lab.readings.records import *  # noqa: F403
from lab.readings.statistics import *  # noqa: F403
from lab.readings.table import *  # noqa: F403
