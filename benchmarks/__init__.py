"""Benchmarks: each prints the machine's own limit beside our figure and ends with a line of JSON."""
