"""Templates of the explorer page (`trainer/explorer.py`)."""
