"""Benchmarks that are installed with graphrt: what fusion is worth, pattern by pattern (``graphrt bench fusion``)."""
