"""What a run leaves: its folder, sinks, checkpoints and summary."""
