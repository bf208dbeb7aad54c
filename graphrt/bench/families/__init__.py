"""The patterns of ``graphrt bench fusion``, a module for each family; ``graphrt.bench.patterns`` has them all by name."""
