"""Plain networks: signal propagation, fixed points, the critical line and the phase map."""
