"""Targets: each prints Kernel IR, has templates, and runs what it built."""
