"""Philox4x64-10: uniform and normal draws that are a function of a key and a counter.

The generator (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3")
turns a counter of four 64-bit words into four random words, by ten rounds of products and
exclusive ors. No word depends on another, so words are the same in every order and on every device.

The same words are made in two ways. numpy's generator makes them one after the other on the CPU.
:func:`make_words` makes the words of many counters at once, which is faster if many examples have
few draws each. It also works on other devices, and is used there for many draws.

Functions with an argument ``xp`` use only what the modules ``numpy`` and ``torch`` share. On a CPU
they are given numpy, whose products of integers take half the time of torch's, and whose operations
on small arrays take a third. On other devices they are given torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

_ROUNDS = 10
_WORDS = 4  # in a counter, and in the result
_LOWER_HALF = 0xFFFFFFFF

# The words are stored in signed integers, because torch has few operations for unsigned ones.
_MULTIPLIERS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], np.uint64).view(np.int64)
_KEY_STEPS = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], np.uint64)

# On a CPU, numpy's generator needs 5 us to move to another example, and 30 ns for each counter.
# make_words needs 400 us for any number of counters, and 300 ns for each.
_MANY_EXAMPLES, _FEW_COUNTERS = 150, 8

# On other devices make_words starts 240 operations for any number of counters. So the words of a
# smaller request, which a CPU makes within a millisecond, are made there and copied.
_FEW_WORDS = 1 << 18

# The number of counters that are processed at once. On a CPU temporary arrays, 128 KiB each, then
# stay in the cache; on other devices slices only bound the memory.
_CPU_SLICE, _DEVICE_SLICE = 1 << 13, 1 << 19

# The number of random bits in a uniform draw, for types whose significand has fewer than 24 digits.
_DIGITS = {torch.bfloat16: 8, torch.float16: 11}


def make_words(counter: Any, key: Any, xp: Any = np) -> Any:
    """Make four random words of 64 bits from the four words of each counter.

    Args:
        counter: int64, ``[4, ...]``.
        key: a numpy array of two words, uint64.
        xp: the module of ``counter``.

    Returns:
        ``[..., 4]``, int64.

    Example:
        >>> words = make_words(np.zeros((4, 1), np.int64), np.zeros(2, np.uint64))
        >>> [f"{word:016x}" for word in words[0].view(np.uint64)]
        ['16554d9eca36314c', 'db20fe9d672d0fdc', 'd7e772cee186176b', '7e68b68aec7ba23b']
    """
    keys = (key + np.arange(_ROUNDS, dtype=np.uint64)[:, None] * _KEY_STEPS).view(np.int64)
    constants = xp.asarray(np.vstack([_MULTIPLIERS, keys]), device=counter.device)
    multipliers, *round_keys = constants.reshape(1 + _ROUNDS, 2, *(1,) * (counter.ndim - 1))
    # Words 0 and 2 are multiplied, so each operation is made for both at once.
    even, odd = counter[0::2], counter[1::2]
    halves = multipliers & _LOWER_HALF, _shift(multipliers)
    for round_key in round_keys:
        upper, lower = _take_upper_product(even, *halves), even * multipliers
        even, odd = xp.flip(upper, (0,)) ^ odd, xp.flip(lower, (0,))
        even ^= round_key
    return xp.stack([even[0], odd[0], even[1], odd[1]], -1)


def _take_upper_product(a: Any, b0: Any, b1: Any) -> Any:
    """Multiply unsigned words ``a`` and ``b``, and return the upper 64 of the 128 bits.

    Halves are multiplied, because the product of two 32-bit words fits into 64 bits.

    Args:
        a: words.
        b0: the lower halves of ``b``.
        b1: its upper halves.
    """
    a0, a1 = a & _LOWER_HALF, _shift(a)
    middle = _shift(a0 * b0)
    middle += a1 * b0
    other = a0 * b1
    other += middle & _LOWER_HALF
    upper = a1 * b1
    upper += _shift(middle)
    upper += _shift(other)
    return upper


def _shift(words: Any) -> Any:
    """Return the upper halves of unsigned words, although they are stored with a sign."""
    shifted = words >> 32
    shifted &= _LOWER_HALF
    return shifted


Transform = Callable[[Any, torch.dtype, Any], Any]


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
    """Make ``count`` draws for each example, from position ``start`` of a request on.

    The key is the seed. A counter consists of the number of its block of four words in the request,
    the number of the request, and the index of the example. Each word gives two draws. Draws in
    different floating types agree to rounding, except that a uniform draw has as many random bits
    as the significand of its type has digits, and at most 24.

    Args:
        transform: :func:`to_uniform` or :func:`to_normal`.
        seed: an integer below 2^128.
        indices: the examples' positions in their dataset, ``[B]``.
        request: the number of the request.
        start: the position of the first draw in the request.
        count: the number of draws for each example.
        dtype: the floating type of the result.
        device: the device of the result.

    Returns:
        ``[B, count]``.
    """
    device = torch.device(device)
    first, skipped = divmod(start, 2)
    needed = (skipped + count + 1) // 2
    words = draw_words(seed, indices, request=request, start=first, count=needed, device=device)
    xp: Any = torch
    if device.type == "cpu":
        xp = np
    pairs = transform(words, dtype, xp).reshape(len(indices), 2 * needed)
    return torch.as_tensor(pairs[:, skipped : skipped + count]).to(dtype)


def draw_words(
    seed: int, indices: Tensor, *, request: int, start: int, count: int, device: torch.device
) -> Any:
    """Draw ``count`` words of 64 bits for each example, from word ``start`` of a request on.

    Returns:
        ``[B, count]``, int64: an array on a CPU, else a tensor on the device.
    """
    block, skipped = divmod(start, _WORDS)
    blocks = -(-(skipped + count) // _WORDS)
    on_cpu = device.type == "cpu"
    if not on_cpu and len(indices) * count < _FEW_WORDS:
        cpu = torch.device("cpu")
        few = draw_words(seed, indices, request=request, start=start, count=count, device=cpu)
        return torch.from_numpy(few).to(device)
    if on_cpu and (len(indices) < _MANY_EXAMPLES or blocks > _FEW_COUNTERS):
        return _draw_in_turn(seed, indices, request, start, count)
    # numpy's generator increases the counter before it is used.
    columns = torch.arange(block + 1, block + 1 + blocks, device=device)
    counter = torch.zeros((_WORDS, len(indices), blocks), dtype=torch.int64, device=device)
    counter[0], counter[2], counter[3] = columns, request, indices.to(device)[:, None]
    counter = counter.flatten(1)
    key = np.random.Philox(key=seed).state["state"]["key"]
    words: Any
    if on_cpu:
        parts = counter.split(_CPU_SLICE, 1)
        words = np.concatenate([make_words(part.numpy(), key) for part in parts])
    else:
        parts = counter.split(_DEVICE_SLICE, 1)
        words = torch.cat([make_words(part, key, torch) for part in parts])
    return words.reshape(len(indices), -1)[:, skipped : skipped + count]


def _draw_in_turn(seed: int, indices: Tensor, request: int, start: int, count: int) -> Any:
    """Draw the same words by numpy's generator, for one example after the other."""
    words = np.empty((len(indices), count), np.uint64)
    block, skipped = divmod(start, _WORDS)
    generators = iterate_generators(seed, indices, request, block)
    for row, generator in enumerate(generators):
        bits: Any = generator.bit_generator
        if skipped:
            bits.random_raw(skipped)
        words[row] = bits.random_raw(count)
    return words.view(np.int64)


def iterate_generators(
    seed: int, indices: Tensor, request: int, block: int = 0
) -> Iterator[np.random.Generator]:
    """Yield numpy's generator at a block of four words of each example's request.

    It is a single generator, which moves from example to example. Making one for each example would
    take longer.
    """
    bits = np.random.Philox(key=seed)
    generator, state = np.random.Generator(bits), cast(Any, bits.state)
    for index in indices.tolist():
        state["state"]["counter"][:] = block, 0, request, index
        bits.state = state
        yield generator


def to_uniform(words: Any, dtype: torch.dtype, xp: Any) -> Any:
    """Make two uniform draws from each word: multiples of 2^-d in [0, 1), with d random bits.

    Returns:
        ``[..., 2]``, of at least float32.
    """
    digits = _DIGITS.get(dtype, 24)
    whole = xp.stack([(words & _LOWER_HALF) >> (32 - digits), _shift(words) >> (32 - digits)], -1)
    uniform = xp.asarray(whole, dtype=_find_wide_type(dtype, xp))
    uniform *= 2.0**-digits
    return uniform


def to_normal(words: Any, dtype: torch.dtype, xp: Any) -> Any:
    """Make two normal draws from each word by the transformation of Box and Muller (1958).

    The lower half of the word gives the radius, and the upper half the angle. The radius is made
    from a uniform number that is at least 2^-33. So its logarithm is finite, and draws reach 6.8
    standard deviations.

    Returns:
        ``[..., 2]``, of at least float32.
    """
    wide = _find_wide_type(dtype, xp)
    radius = xp.asarray(words & _LOWER_HALF, dtype=wide)
    radius *= 2.0**-32
    radius += 2.0**-33
    xp.log(radius, out=radius)
    radius *= -2
    xp.sqrt(radius, out=radius)
    angle = xp.asarray(words >> 32, dtype=wide)
    angle *= math.pi / (1 << 31)
    cosine, sine = xp.cos(angle), xp.sin(angle)
    cosine *= radius
    sine *= radius
    return xp.stack([cosine, sine], -1)


def _find_wide_type(dtype: torch.dtype, xp: Any) -> Any:
    """Find the type to compute in: at least float32."""
    if dtype == torch.float64:
        return xp.float64
    return xp.float32
