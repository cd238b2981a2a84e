"""init=critical for a whole configuration: the weight_var at which gradients neither grow nor shrink.

A plain stack has the critical line of `lab.theory.critical`, in an ffn block for two maps in a row. Where norms hold the
variance, the rate at which squared gradients change from layer to layer settles after a few layers, and its root in
weight_var is sought. A skip leaves no such point: it carries the gradient past the branch, which can only add to it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from lab import schema
from lab.theory.batch import BatchMoments
from lab.theory.critical import bisect, critical_weight_var
from lab.theory.propagation import propagate
from lab.theory.variances import maps


def critical_weight_var_of(config: schema.Config) -> float:
    """weight_var of init=critical for the activation, norm, residual and block of a configuration, before init.gain.

    Raises:
        ConfigError: no weight_var makes gradients keep their size.
    """
    ...
