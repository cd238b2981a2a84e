"""From gradients to a change of the parameters: clipping and optimizers, each replica by itself."""
