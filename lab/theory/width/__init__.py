"""Finite width: how measurements scatter around mean-field theory, as prediction bands."""
