"""Benchmarks: one script per question, peers beside graphrt in the same run, results as committed rows."""
