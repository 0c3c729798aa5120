"""NeoGen: the autoencoder whose encoder NeoCls reads; latent diffusion builds on it."""
