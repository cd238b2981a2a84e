"""Sinks: destinations of readings."""
