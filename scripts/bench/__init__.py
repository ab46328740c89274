"""What scripts/benchmark.py stands on: `topics` has a module for each topic, `pytorch` the peer's side."""
