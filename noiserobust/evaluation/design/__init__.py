"""Questions of hardware design: sensitivity, digital layers, noise budget, yield."""
