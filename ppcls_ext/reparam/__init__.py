"""Structural re-parameterization: the algebra, fusing, and the way back."""
