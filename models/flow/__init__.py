"""From noise to data: the path, levels of noise, samplers."""
