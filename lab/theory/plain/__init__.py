"""Plain networks without norms and skips: fixed points, the critical line and the phase map."""
