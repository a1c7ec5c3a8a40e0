"""Variational auto-encoders and variational inference, with bounds that are right to the last nat.

Importing this package does no work: torch is imported when the first public name is used. The
public names are listed once, in ``__init__.pyi``.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
