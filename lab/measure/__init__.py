"""Tensors in, numbers out: probes, and the instrument that reads a network's layers during a step."""
