"""The guide's claims, one module per topic, in the guide's order."""

TOPICS = (
    *("linear", "gradients", "recurrent", "fixes", "norms_and_skips", "sigmoid", "tanh", "relu", "dying_relu"),
    *("relu_family", "elu", "gelu", "swish", "better", "gated", "costs", "exercises"),
)
"""Modules of this package, each with its `CLAIMS`."""
