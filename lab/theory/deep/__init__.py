"""Networks of a configuration, with norms, skips and gates: layer-by-layer prediction, criticality and Jacobian."""
