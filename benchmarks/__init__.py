"""What containers cost, measured: `python -m benchmarks`; docs/performance.md explains the figures.

Not part of the package. A subject is a module with `ABOUT`, a sentence, and `measure(stage)`.
"""
