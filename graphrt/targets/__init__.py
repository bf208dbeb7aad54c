"""Targets: a printer of Kernel IR, a set of templates and a runner each."""
