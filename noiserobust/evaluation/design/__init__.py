"""Hardware design: sensitivity of layers, layers to keep digital, noise budget, yield of chips."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["chip_yield", "digital_layers", "layer_sensitivity", "noise_budget"]
)
