"""Benchmarks: each prints the machine's limit beside our figure and ends with a line of JSON."""
