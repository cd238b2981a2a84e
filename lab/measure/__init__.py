"""Tensors in, numbers out: probes, the instrument that measures a model's layers, and the anatomy it reads."""

from lab.measure.anatomy import ActivationFacts, Anatomy, ParameterStack, Segment, Site
from lab.measure.instrument import LAYER_PROBES, Instrument, LayerProbe

__all__ = ["LAYER_PROBES", "ActivationFacts", "Anatomy", "Instrument", "LayerProbe"]
__all__ += ["ParameterStack", "Segment", "Site"]
