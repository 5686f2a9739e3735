"""Training as SLURM jobs: a readable batch script, and what it needs to start, stop and go on.

Run: python -m launch.slurm submit preset=golf data.manifest=data/golf schedule.clips=512 \\
         --nodes 4 --gpus-per-node 8
"""
