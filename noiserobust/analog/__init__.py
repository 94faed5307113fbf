"""Networks whose weights lie in analog arrays: which weights do, how noise gets into them, converters, backends."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["converters", "coverage", "layers", "noisy", "tracing", "weights", "where"]
)
