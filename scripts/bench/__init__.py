"""Parts of scripts/benchmark.py: `topics` has a module for each topic, `pytorch` the peer's side."""
