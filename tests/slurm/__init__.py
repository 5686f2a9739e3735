"""Training jobs on a real SLURM."""
