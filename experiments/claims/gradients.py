"""Section 2: why gradients vanish or explode, and what that does to training."""

from experiments.claims import exploding_product, frozen_layers, vanishing_product

CLAIMS = (vanishing_product.CLAIM, frozen_layers.CLAIM, exploding_product.CLAIM)
