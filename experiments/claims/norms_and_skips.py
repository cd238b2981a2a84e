"""Sections 2.3 and 2.4: cures that change the network: batch norm, layer norm, skip connections."""

from experiments.claims import fix_batchnorm, fix_layernorm, fix_residual

CLAIMS = (fix_batchnorm.CLAIM, fix_layernorm.CLAIM, fix_residual.CLAIM)
