"""Readers of files that anybody may have written: JSON values, summary.json and NetCDF; reading executes nothing."""
