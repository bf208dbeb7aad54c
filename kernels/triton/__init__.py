"""Triton kernel templates: a template owns the loops, the closures it is given own every load and store."""
