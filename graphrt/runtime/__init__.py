"""What a user runs: programs and the state they share."""
