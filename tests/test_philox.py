"""Philox4x64-10 against its published vectors, and the draws that are made from it."""

import numpy as np
import pytest
import torch
from scipy import stats

from lowerbound.runtime import noise
from lowerbound.runtime.noise import philox

# Known answers from the file kat_vectors of Random123: counter, key, and the random words.
ONES = 0xFFFFFFFFFFFFFFFF
KNOWN = [
    ((0,) * 4, (0,) * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (
        (ONES,) * 4,
        (ONES,) * 2,
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
]
DRAWS = {"standard_normal": noise.standard_normal, "uniform": noise.uniform}
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
@pytest.mark.parametrize("module", [np, torch])
def test_words_are_the_published_ones(counter, key, words, module):
    stored = module.asarray(np.array(counter, np.uint64).view(np.int64)).reshape(4, 1)
    found = np.asarray(philox.make_words(stored, np.array(key, np.uint64), module))
    assert " ".join(f"{word:016x}" for word in found[0].view(np.uint64)) == words


@pytest.mark.parametrize("seed", [0, 2**63 + 7])
@pytest.mark.parametrize(("start", "count"), [(0, 1), (3, 9), (50, 4)])
def test_both_ways_of_drawing_give_the_same_words(seed, start, count, monkeypatch):
    def draw():
        rows = torch.tensor([0, 9, 2**40, 2**62 + 3])
        return philox.draw_words(
            seed, rows, request=5, start=start, count=count, device=torch.device("cpu")
        )

    monkeypatch.setattr(philox, "_MANY_EXAMPLES", 5)
    in_turn = draw()
    monkeypatch.setattr(philox, "_MANY_EXAMPLES", 4)
    monkeypatch.setattr(philox, "_draw_in_turn", None)
    for size in (1, 3, 100):
        monkeypatch.setattr(philox, "_CPU_SLICE", size)
        assert np.array_equal(draw(), in_turn)


@pytest.mark.parametrize("transform", [philox.to_normal, philox.to_uniform])
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_and_numpy_make_the_same_draws_from_words(transform, dtype):
    """torch makes them on other devices: uniform draws are equal, and normal ones to rounding."""
    words = philox.draw_words(
        0, torch.arange(3), request=0, start=0, count=1000, device=torch.device("cpu")
    )
    expected = torch.from_numpy(transform(words, dtype, np))
    found = transform(torch.from_numpy(words), dtype, torch)
    assert found.dtype == expected.dtype
    if transform is philox.to_uniform:
        assert torch.equal(found, expected)
    error = 16 * torch.finfo(found.dtype).eps
    torch.testing.assert_close(found, expected, rtol=error, atol=error)


@pytest.mark.parametrize("few", [0, 1 << 30])
def test_another_device_gets_a_tensor_of_its_own(few, monkeypatch):
    """Whether the words are made there or on the CPU; this device computes shapes and no values."""
    monkeypatch.setattr(philox, "_FEW_WORDS", few)
    with noise.per_example(3, torch.arange(4)):
        drawn = [draw((5, 4, 3), 1, device="meta") for draw in DRAWS.values()]
    assert all(tensor.device.type == "meta" and tensor.shape == (5, 4, 3) for tensor in drawn)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_of_any_length_together_are_one_draw(name, dtype):
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
def test_float32_draws_are_those_of_float64_to_rounding(name):
    with noise.per_example(3, torch.arange(5)):
        single = DRAWS[name]((4000, 5), 1)
    with noise.per_example(3, torch.arange(5)):
        double = DRAWS[name]((4000, 5), 1, dtype=torch.float64)
    assert float((single - double).abs().max()) < 2e-6


def test_uniform_draws_are_those_of_numpy():
    with noise.per_example(3, torch.tensor([4])):
        drawn = noise.uniform((1, 99), 0)
    bits = np.random.Philox(key=3, counter=(0, 0, 0, 4))
    expected = np.random.Generator(bits).random((1, 99), np.float32)
    assert np.array_equal(drawn.numpy(), expected)


def test_high_bits_of_seed_and_index_change_the_draws():
    several = []
    for seed in (1, 1 + (1 << 32), 1 + (1 << 63)):
        for index in (1, 1 + (1 << 32), 1 + (1 << 62)):
            with noise.per_example(seed, torch.tensor([index])):
                several += [noise.standard_normal((1, 64), 0, dtype=torch.float64)]
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
def test_extreme_words_give_finite_normal_draws_and_uniform_draws_below_1(dtype):
    halves = [(0, 0), (ONES >> 32, ONES >> 32), (0, 1 << 31), (ONES >> 32, 0), (0, ONES >> 32)]
    words = np.array([lower | upper << 32 for lower, upper in halves], np.uint64).view(np.int64)
    uniform = torch.from_numpy(philox.to_uniform(words, dtype, np)).to(dtype)
    assert float(uniform.min()) == 0
    assert float(uniform.max()) < 1
    normal = torch.from_numpy(philox.to_normal(words, dtype, np)).to(dtype)
    assert normal.isfinite().all()
    assert float(normal.abs().max()) > 6.7


def test_no_examples_have_no_noise():
    with noise.per_example(0, torch.arange(0)):
        assert noise.standard_normal((3, 0, 2), axis=1).shape == (3, 0, 2)
