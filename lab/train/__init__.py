"""The training step and loop, with losses, optimizers, clipping and the detection of divergence."""
