"""What `make bench` measures: speed against `cp`, against the documented algorithm, and peak memory. See docs/benchmarks.md."""
