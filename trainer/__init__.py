"""Training: the model of the paper, its latent dictionary, and the loop that moves both."""
