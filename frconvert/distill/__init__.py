"""Refining coefficients against what the original model computes."""
