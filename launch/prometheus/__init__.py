"""Prometheus and Grafana files for navsynth, and their writer: `python -m launch.prometheus`."""
