"""How the machine is used: random numbers, devices, modes, memory and torch's compiler."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["noise"])
