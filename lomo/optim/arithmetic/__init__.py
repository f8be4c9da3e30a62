"""Norms, scales and rounding: the numbers of one update."""
