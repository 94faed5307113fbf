"""Hardware design: sensitivity of layers, layers to keep digital, noise budget, yield of chips."""
