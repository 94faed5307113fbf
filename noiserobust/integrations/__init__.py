"""Training rules in the loops of other libraries; nothing here is imported by the rest of the package."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["accelerate", "aihwkit", "lightning", "transformers"])
