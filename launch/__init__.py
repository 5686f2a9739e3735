"""What surrounds a run: reports, SLURM, Prometheus, reproduction."""
