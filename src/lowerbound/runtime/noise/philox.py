"""Philox4x32-10: uniform and normal draws that are a function of a key and a counter.

The generator (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3")
turns a counter of four 32-bit words into four random words, by ten rounds of products and
exclusive ors. No draw depends on another, so draws are the same in every order and on every device.

The words are stored in 64-bit integers. :func:`make_words` uses only operators that numpy's arrays
and torch's tensors share: on a CPU it is given arrays, whose products take half the time, and on
other devices tensors. The bits are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_MASK = 0xFFFFFFFF  # of the lower 32 bits

_WORDS = 4  # of a counter, and of what is made from it
_MOST_BLOCKS = 1 << 32

# The number of counters that are processed at once. On a CPU the temporary arrays, 128 KiB each,
# then stay in the cache; on other devices the slices only bound the memory.
_CPU_SLICE, _DEVICE_SLICE = 1 << 14, 1 << 19

# The number of random bits in a uniform draw: the digits of the type's significand.
_DIGITS = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24, torch.float64: 53}

Words = tuple[Any, Any, Any, Any]


def make_words(counter: Words, key: tuple[int, int]) -> Words:
    """Make four random words of 32 bits from the four words of a counter.

    Args:
        counter: four integers, or arrays or tensors of int64, which are broadcast.
        key: two words.

    Example:
        >>> [f"{word:08x}" for word in make_words((0, 0, 0, 0), (0, 0))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        # A product may be negative as a 64-bit integer, and its lower half is the next c1 or c3.
        # The mask removes the sign, and the upper half of c1 and c3, which is never used.
        c0, c2 = (p1 >> 32) ^ c1, (p0 >> 32) ^ c3
        c0 ^= k0
        c2 ^= k1
        c0 &= _MASK
        c2 &= _MASK
        c1, c3 = p1, p0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1 & _MASK, c2, c3 & _MASK


Transform = Callable[[Words, Words | None, torch.dtype], list[Tensor]]


def draw(
    transform: Transform,
    seed: int,
    indices: Tensor,
    *,
    request: int,
    start: int,
    count: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """Draw ``count`` numbers for each example, from position ``start`` of a request on.

    The key is the seed. A counter consists of the position divided by four, the number of the
    request, and both halves of the example's index; its four words serve four positions. In
    float64, words of a second counter add further bits, so that a draw in float32 is the one in
    float64, to rounding.

    Args:
        transform: :func:`to_uniform` or :func:`to_normal`.
        seed: below 2^64.
        indices: of the examples, ``[B]``.
        request: its number, below 2^31.
        start: the position of the first number in the request.
        count: of numbers.
        dtype: the floating type of the result.
        device: of the result.

    Returns:
        ``[B, count]``.

    Raises:
        ValueError: if a position is not below 2^34. Counters would repeat.
    """
    device = torch.device(device)
    first, offset = divmod(start, _WORDS)
    blocks = -(-(offset + count) // _WORDS)
    if first + blocks > _MOST_BLOCKS:
        raise ValueError("a request for noise has at most 2^34 draws for each example")
    rows, columns = _prepare(indices, device), _prepare(torch.arange(blocks) + first, device)
    key = seed & _MASK, seed >> 32 & _MASK
    drawn = torch.empty((len(indices), blocks, _WORDS), dtype=dtype, device=device)

    def draw_words(row: slice, column: slice, second: bool) -> Words:
        index = rows[row, None]
        counter = columns[None, column], 2 * request + second, index & _MASK, index >> 32 & _MASK
        words = make_words(counter, key)
        return tuple(map(torch.as_tensor, words))  # type: ignore[return-value]

    for row, column in _split(len(indices), blocks, device):
        words, further = draw_words(row, column, False), None
        if dtype == torch.float64:
            further = draw_words(row, column, True)
        drawn[row, column] = torch.stack(transform(words, further, dtype), -1)
    return drawn.flatten(1)[:, offset : offset + count]


def _prepare(values: Tensor, device: torch.device) -> Any:
    """Return an array on a CPU, else a tensor on the device."""
    values = values.to(device, torch.int64)
    if device.type == "cpu":
        return values.numpy()
    return values


def _split(rows: int, columns: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Split a table of counters into slices of bounded size."""
    most = _DEVICE_SLICE
    if device.type == "cpu":
        most = _CPU_SLICE
    width = max(1, min(columns, most))
    height = max(1, most // width)
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            yield slice(row, row + height), slice(column, column + width)


def to_uniform(words: Words, further: Words | None, dtype: torch.dtype) -> list[Tensor]:
    """Make multiples of 2^-d in [0, 1), where d is the number of digits of the type."""
    digits = _DIGITS[dtype]
    if further is None:
        whole = [word >> (32 - digits) for word in words]
    else:
        pairs = zip(words, further, strict=True)
        whole = [(word << (digits - 32)) | (more >> (64 - digits)) for word, more in pairs]
    return [value.to(dtype).mul_(2.0**-digits) for value in whole]


def to_normal(words: Words, further: Words | None, dtype: torch.dtype) -> list[Tensor]:
    """Make normal draws by the transformation of Box and Muller (1958), two from two words.

    The smallest uniform number is 2^-33 in float32 and 2^-65 in float64, so draws reach 6.8 and
    9.5 standard deviations, and there is no logarithm of zero.
    """
    wide = dtype
    if further is None:
        wide = torch.float32
    radius = torch.stack([words[0].to(wide), words[2].to(wide)]).mul_(2.0**-32)
    angle = torch.stack([(word - (1 << 31)).to(wide) for word in words[1::2]])
    if further is None:
        radius.add_(2.0**-33)
    else:
        radius.add_(torch.stack(further[::2]).to(wide).mul_(2.0**-64).add_(2.0**-65))
        angle.add_(torch.stack(further[1::2]).to(wide), alpha=2.0**-32)
    radius.log_().mul_(-2).sqrt_()
    angle.mul_(math.pi / (1 << 31))
    cosines, sines = angle.cos().mul_(radius), angle.sin_().mul_(radius)
    return [value.to(dtype) for pair in zip(cosines, sines, strict=True) for value in pair]
