"""Every table and figure of the paper, from footage to one report: `python -m launch.reproduce`."""
