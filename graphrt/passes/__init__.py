"""Passes: functions from graph to graph, run in the order of ``pipeline``."""
