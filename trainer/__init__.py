"""Training: the model of the paper, its latent dictionary, and the loop that moves both."""

VERSION = "0.1.0"
