"""What scripts/benchmark.py measures, a file a topic; `peer*` runs under the interpreter that has PyTorch."""
