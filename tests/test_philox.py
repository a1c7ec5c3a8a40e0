"""Philox4x32-10 against its published vectors, and the draws that are made from it."""

import numpy as np
import pytest
import torch
from scipy import stats

from lowerbound.runtime import noise
from lowerbound.runtime.noise import philox

# The known answers of Random123's kat_vectors: counter and key, and the words.
ONES = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
DRAWS = {"standard_normal": noise.standard_normal, "uniform": noise.uniform}
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_words_are_the_published_ones(counter, key, words, make):
    found = philox.make_words(tuple(make([word]) for word in counter), key)
    assert " ".join(f"{int(word[0]):08x}" for word in found) == words


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_of_any_length_are_one_draw(name, dtype):
    draw = DRAWS[name]
    with noise.per_example(3, torch.tensor([9, 4])):
        whole = draw((23, 2, 3), 1, dtype=dtype)
    with noise.per_example(3, torch.tensor([4])), noise.in_chunks() as next_chunk:
        parts = []
        for size in (1, 5, 2, 15):
            next_chunk()
            parts.append(draw((size, 1, 3), 1, dtype=dtype))
    assert torch.equal(torch.cat(parts), whole[:, 1:])


@pytest.mark.parametrize("name", DRAWS)
def test_slices_do_not_change_a_draw(name, monkeypatch):
    def draw():
        with noise.per_example(3, torch.arange(5)):
            return DRAWS[name]((37, 5, 3), 1)

    whole = draw()
    for size in (1, 7, 60):
        monkeypatch.setattr(philox, "_CPU_SLICE", size)
        assert torch.equal(draw(), whole)


@pytest.mark.parametrize("name", DRAWS)
def test_float32_draws_are_those_of_float64_to_rounding(name):
    with noise.per_example(3, torch.arange(5)):
        single = DRAWS[name]((4000, 5), 1)
    with noise.per_example(3, torch.arange(5)):
        double = DRAWS[name]((4000, 5), 1, dtype=torch.float64)
    assert float((single - double).abs().max()) < 2e-6
    assert not torch.equal(single.double(), double)


def test_all_64_bits_of_seed_and_index_count():
    several = []
    for seed in (1, 1 + (1 << 32), 1 + (1 << 63)):
        for index in (1, 1 + (1 << 32), 1 + (1 << 62)):
            with noise.per_example(seed, torch.tensor([index])):
                several += [noise.uniform((1, 64), 0, dtype=torch.float64) for _ in range(2)]
    values = torch.cat(several)
    assert len(values.unique()) == values.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_their_distribution(dtype):
    """Kolmogorov's test of 200,000 draws each: one false alarm in 10^5 runs."""
    with noise.per_example(8, torch.arange(10)):
        normal = noise.standard_normal((20_000, 10), 1, dtype=dtype).flatten().double().numpy()
        uniform = noise.uniform((20_000, 10), 1, dtype=dtype).flatten().double().numpy()
    assert stats.kstest(normal, "norm").pvalue > 5e-6
    assert stats.kstest(uniform, "uniform").pvalue > 5e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_words_give_finite_draws(dtype):
    words = tuple(torch.tensor([word]) for word in (0, ONES, ONES, 0))
    further = None
    if dtype == torch.float64:
        further = words
    uniform = torch.cat(philox.to_uniform(words, further, dtype))
    assert float(uniform.min()) == 0
    assert float(uniform.max()) < 1
    normal = torch.cat(philox.to_normal(words, further, dtype))
    assert normal.isfinite().all()
    assert float(normal.abs().max()) > 6.5


def test_positions_that_would_repeat_are_refused():
    with pytest.raises(ValueError, match="at most 2"):
        philox.draw(
            philox.to_normal,
            0,
            torch.tensor([0]),
            request=0,
            start=(1 << 34) - 1,
            count=2,
            dtype=torch.float32,
            device="cpu",
        )
