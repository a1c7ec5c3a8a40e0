"""Philox4x64-10: uniform and normal draws that are a function of a key and a counter.

The generator (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3")
turns a counter of four 64-bit words into four random words, by ten rounds of products and
exclusive ors. No draw depends on another, so draws are the same in every order and on every device.

The same words are made in two ways. numpy's generator makes them one after the other.
:func:`make_words` makes those of many counters at once, by operators that numpy's arrays and
torch's tensors share. On a CPU it is faster for few draws for each of many examples, and it is the
only way on other devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lowerbound.runtime.memory import split_range

_ROUNDS = 10
_WORDS = 4  # of a counter, and of what is made from it
_LOWER_HALF = 0xFFFFFFFF

# The words are stored in signed integers, because torch has few operations for unsigned ones.
_MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64).view(np.int64)
_KEY_STEPS = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], np.uint64)

# On a CPU, numpy's generator needs 5 us to move to another example, and 30 ns for each counter.
# make_words needs 300 us for any number of counters, and 300 ns for each.
_MANY_EXAMPLES, _FEW_COUNTERS = 100, 8

# The number of random bits in a uniform draw, for types whose significand has fewer than 24 digits.
_DIGITS = {torch.bfloat16: 8, torch.float16: 11}


def make_words(counter: Any, key: Any) -> Any:
    """Make four random words of 64 bits from the four words of each counter.

    Args:
        counter: an array or a tensor of int64, ``[4, ...]``.
        key: an array of two words, uint64.

    Returns:
        ``[..., 4]``, int64, of the type of ``counter``.

    Example:
        >>> words = make_words(np.zeros((4, 1), np.int64), np.zeros(2, np.uint64))
        >>> [f"{word:016x}" for word in words[0].view(np.uint64)]
        ['16554d9eca36314c', 'db20fe9d672d0fdc', 'd7e772cee186176b', '7e68b68aec7ba23b']
    """
    # Words 0 and 2 are multiplied, so each operation is made for both at once.
    even, odd = counter[0::2], counter[1::2]
    keys = key + np.arange(_ROUNDS, dtype=np.uint64)[:, None] * _KEY_STEPS
    trailing = (1,) * (even.ndim - 1)
    constants = np.concatenate([_MULTIPLIERS.T, keys.view(np.int64)]).reshape(-1, 2, *trailing)
    if isinstance(counter, Tensor):
        constants = torch.from_numpy(constants).to(counter.device)
    multipliers, *each_key = constants
    for round_key in each_key:
        upper, lower = _multiply(even, multipliers)
        even, odd = _swap(upper) ^ odd, _swap(lower)
        even ^= round_key
    stack = torch.stack if isinstance(counter, Tensor) else np.stack
    return stack([even[0], odd[0], even[1], odd[1]], -1)  # type: ignore[operator]


def _multiply(a: Any, b: Any) -> tuple[Any, Any]:
    """Multiply unsigned words of 64 bits: the upper and the lower word of each product.

    Halves are multiplied, because a product of 32-bit words has 64 bits and no more.
    """
    a0, a1, b0, b1 = a & _LOWER_HALF, _shift(a), b & _LOWER_HALF, _shift(b)
    middle = _shift(a0 * b0)
    middle += a1 * b0
    other = a0 * b1
    other += middle & _LOWER_HALF
    upper = a1 * b1
    upper += _shift(middle)
    upper += _shift(other)
    return upper, a * b


def _shift(words: Any) -> Any:
    """Return the upper halves of unsigned words; the sign of the stored words does not count."""
    shifted = words >> 32
    shifted &= _LOWER_HALF
    return shifted


def _swap(pair: Any) -> Any:
    if isinstance(pair, Tensor):
        return pair.flip(0)
    return pair[::-1]


Transform = Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor]]


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

    The key is the seed. A counter consists of the number of its words in the request, divided by
    four, the number of the request, and the index of the example. Each word serves two positions.
    A draw in one floating type is that in another to rounding, except that uniform draws have as
    many random bits as the type has digits, at most 24.

    Args:
        transform: :func:`to_uniform` or :func:`to_normal`.
        seed: below 2^128.
        indices: of the examples, ``[B]``.
        request: its number.
        start: the position of the first number in the request.
        count: of numbers.
        dtype: the floating type of the result.
        device: of the result.

    Returns:
        ``[B, count]``.
    """
    first, skipped = divmod(start, 2)
    words = draw_words(seed, indices, request, first, (skipped + count + 1) // 2, device)
    # Putting two tensors together as complex numbers is four times as fast as stacking them.
    pairs = torch.view_as_real(torch.complex(*transform(words, dtype)))
    return pairs.flatten(1)[:, skipped : skipped + count].to(dtype)


def draw_words(
    seed: int, indices: Tensor, request: int, start: int, count: int, device: torch.device | str
) -> Tensor:
    """Draw ``count`` words of 64 bits for each example, from word ``start`` of a request on.

    Returns:
        ``[B, count]``, int64.
    """
    block, skipped = divmod(start, _WORDS)
    blocks = -(-(skipped + count) // _WORDS)
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu and (len(indices) < _MANY_EXAMPLES or blocks > _FEW_COUNTERS):
        return _draw_by_numpy(seed, indices, request, start, count)
    # numpy's generator increases the counter before it is used.
    columns = torch.arange(block + 1, block + 1 + blocks, device=device)
    rows = indices.to(device, torch.int64)
    words = torch.empty((len(rows), blocks, _WORDS), dtype=torch.int64, device=device)
    key = np.random.Philox(key=seed).state["state"]["key"]
    for row in split_range(len(rows), blocks * _WORDS):
        for column in split_range(blocks, _WORDS):
            counter = torch.zeros((4, *words[row, column].shape[:2]), dtype=torch.int64)
            counter = counter.to(device)
            counter[0], counter[2], counter[3] = columns[column], request, rows[row, None]
            if on_cpu:  # numpy's products take half the time of torch's
                words[row, column] = torch.from_numpy(make_words(counter.numpy(), key))
            else:
                words[row, column] = make_words(counter, key)
    return words.flatten(1)[:, skipped : skipped + count]


def _draw_by_numpy(seed: int, indices: Tensor, request: int, start: int, count: int) -> Tensor:
    bits = np.random.Philox(key=seed)
    state: Any = bits.state
    words = np.empty((len(indices), count), np.uint64)
    block, skipped = divmod(start, _WORDS)
    for row, index in enumerate(indices.tolist()):
        state["state"]["counter"][:] = block, 0, request, index
        bits.state = state
        if skipped:
            bits.random_raw(skipped)
        words[row] = bits.random_raw(count)
    return torch.from_numpy(words.view(np.int64))


def to_uniform(words: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Make two multiples of 2^-d in [0, 1) from each word, where d is the number of random bits."""
    digits = _DIGITS.get(dtype, 24)
    wide = _find_wide_type(dtype)
    lower = (words & _LOWER_HALF).bitwise_right_shift_(32 - digits)
    upper = (words >> (64 - digits)).bitwise_and_((1 << digits) - 1)
    return lower.to(wide).mul_(2.0**-digits), upper.to(wide).mul_(2.0**-digits)


def to_normal(words: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Make two normal draws from each word by the transformation of Box and Muller (1958).

    The lower half of the word is the radius, and the upper half the angle. The smallest uniform
    number is 2^-33, so draws reach 6.8 standard deviations, and there is no logarithm of zero.
    """
    wide = _find_wide_type(dtype)
    radius = (words & _LOWER_HALF).to(wide).mul_(2.0**-32).add_(2.0**-33)
    radius = radius.log_().mul_(-2).sqrt_()
    angle = (words >> 32).to(wide).mul_(math.pi / (1 << 31))
    return angle.cos().mul_(radius), angle.sin_().mul_(radius)


def _find_wide_type(dtype: torch.dtype) -> torch.dtype:
    """Find the type to compute in: at least float32."""
    return cast(torch.dtype, torch.promote_types(dtype, torch.float32))
