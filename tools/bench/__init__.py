"""Benchmarks: ``python -m pykernel.tools.bench`` prints measured figures beside their targets and peers."""
