"""The world of the DriveDiT report: causal autoencoder, block-causal diffusion transformer, memory, heads."""
