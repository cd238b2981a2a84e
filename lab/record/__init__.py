"""The files of a run: folder, sinks, checkpoints, summary and NetCDF tables; its modules are imported by name."""
