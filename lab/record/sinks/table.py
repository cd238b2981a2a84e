"""The table sink: readings.nc, the truth behind every view, and the picture drawn from it."""

from collections.abc import Mapping
from pathlib import Path

from lab.machine.files import atomic_write
from lab.readings import Record, to_dataset
from lab.record.files import PICTURE, READINGS
from lab.record.overlay import Overlay


class Table:
    """Collects the records and at the end writes readings.nc (NetCDF-4) and gradients.png."""

    def __init__(
        self, folder: Path, first_replica: int, attrs: Mapping[str, str], title: str, expected: Overlay | None = None
    ) -> None:
        self.folder, self.first_replica, self.attrs, self.title = folder, first_replica, attrs, title
        self.expected = expected
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        if not self.records:
            return
        from lab.plot import gradients, style

        predictions = self.expected.variables(self.records[0]) if self.expected is not None else ()
        table = to_dataset(self.records, self.first_replica, self.attrs, predictions)
        with atomic_write(self.folder / READINGS) as draft:
            table.to_netcdf(draft, engine="h5netcdf")
        with atomic_write(self.folder / PICTURE) as draft:
            style.save(gradients.draw(table, self.title), draft)
