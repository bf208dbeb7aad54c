"""The runtime: programs and the state they share."""
