"""Thin entry points: what one asks of the lab."""
