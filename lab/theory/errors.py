"""NoTheory: the refusal of a configuration that theory does not cover."""

from lab import schema


class NoTheory(schema.ConfigError):
    """A configuration without a prediction; the message names the choice that has no theory."""
