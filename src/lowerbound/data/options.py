"""The choices that loading data offers. Light: imports neither numpy nor torch."""

from typing import Literal

Pixels = Literal["as-is", "dequantize", "binarize", "binarize-once"]
Color = Literal["keep", "grey", "rgb"]
Resize = Literal["crop", "stretch"]
KeepIn = Literal["auto", "memory", "file"]
