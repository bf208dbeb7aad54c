"""Hand-written kernel templates that generated code instantiates with closures of its own."""
