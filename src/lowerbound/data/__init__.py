"""Readers that make examples from arrays, folders of pictures and named data sets.

Names are imported when they are first used: the catalogue of data sets can be read without loading
torch. The names are listed once, in ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
