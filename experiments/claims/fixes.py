"""Sections 2.1, 2.2 and 2.5: cures that change the activation, the weights to start from, or the step."""

from experiments.claims import fix_activation, fix_clipping, fix_init

CLAIMS = (fix_activation.CLAIM, fix_init.CLAIM, fix_clipping.CLAIM)
