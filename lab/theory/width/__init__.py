"""Finite width: the scatter of measurements around mean-field theory, as prediction bands and as error of a slope."""
