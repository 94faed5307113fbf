"""Train and evaluate neural networks that survive the weight noise of analog in-memory-computing chips.

- :mod:`noiserobust.noise`: what an array does to the weights it stores
- :mod:`noiserobust.analog`: which weights of a network are analog; noisy weights, converters
- :mod:`noiserobust.training`: rules, schedules, and the engine that runs them
- :mod:`noiserobust.evaluation`: Monte Carlo under noise, and its statistics
- :mod:`noiserobust.minima`: sharpness, gradients and curvature of trained networks
- :mod:`noiserobust.models`, :mod:`noiserobust.data`, :mod:`noiserobust.report`,
  :mod:`noiserobust.sweep`, :mod:`noiserobust.papers`

Names are loaded when they are used: ``import noiserobust`` alone loads no torch.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
try:
    __version__ = version("noiserobust")
except PackageNotFoundError:  # a checkout that nobody installed
    __version__ = "0.2.0"
