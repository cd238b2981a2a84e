"""The vocabulary of what is measured: quantities with their units, records, statistics and the table of a run."""

from lab.readings.quantities import JACOBIAN_MOMENTS, LAYER_QUANTITIES, NORMS, SCALAR_QUANTITIES, SPECTRA, Quantity
from lab.readings.records import Record, split
from lab.readings.statistics import delta_slope, first_over_last, median
from lab.readings.table import to_dataset

__all__ = ["JACOBIAN_MOMENTS", "LAYER_QUANTITIES", "NORMS", "SCALAR_QUANTITIES", "SPECTRA", "Quantity", "Record"]
__all__ += ["delta_slope", "first_over_last", "median", "split", "to_dataset"]
