"""NeoCls: PattenNet on frozen features of the latent diffusion model's encoder."""
