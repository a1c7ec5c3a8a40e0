from __future__ import annotations

import math

import pytest
import torch

from lowerbound.data import Examples
from lowerbound.runtime import noise
from lowerbound.runtime.noise import derived_seed, per_example, standard_normal

DRAWS = {"standard_normal": noise.standard_normal, "uniform": noise.uniform}


@pytest.fixture(params=DRAWS)
def draw(request):
    return DRAWS[request.param]


def of(draw, seed, indices, shape, axis, requests=1):
    with noise.per_example(seed, torch.tensor(indices)):
        return [draw(shape, axis) for _ in range(requests)][-1]


def test_noise_of_an_example_does_not_depend_on_its_batch(draw):
    whole = of(draw, 3, [0, 1, 2, 3, 9], (4, 5, 2), 1)
    for index, expected in zip([0, 3, 9], (0, 3, 4), strict=True):
        assert torch.equal(of(draw, 3, [index], (4, 1, 2), 1)[:, 0], whole[:, expected])
    assert torch.equal(of(draw, 3, [9, 1], (4, 2, 2), 1), whole[:, [4, 1]])


def test_streams_differ_between_seeds_examples_and_requests(draw):
    shape = (2, 64)
    first = of(draw, 0, [5, 6], shape, 0)
    others = {
        "example": first[1],
        "seed": of(draw, 1, [5, 6], shape, 0)[0],
        "request": of(draw, 0, [5, 6], shape, 0, requests=2)[0],
    }
    for name, other in others.items():
        assert (first[0] == other).float().mean() < 0.05, name


def test_requests_of_any_length_do_not_run_into_each_other(draw):
    """A long request must not reach the numbers of the next one."""
    with noise.per_example(0, torch.tensor([0])):
        long, following = draw((1, 4096), 0), draw((1, 256), 0)
    assert not set(long.flatten().tolist()[-2048:]) >= set(following.flatten().tolist())
    assert (long[0, :256] == following[0]).float().mean() < 0.05


def test_normal_moments():
    x = of(noise.standard_normal, 0, list(range(200)), (200, 1000), 0).double()
    error = 5 / math.sqrt(x.numel())  # five standard errors: fails once in two million
    assert abs(x.mean()) < error
    assert abs(x.square().mean() - 1) < error * math.sqrt(2)
    assert abs(x.pow(4).mean() - 3) < error * math.sqrt(96)
    assert abs((x[:-1] * x[1:]).mean()) < error


def test_uniform_moments_and_range():
    x = of(noise.uniform, 0, list(range(200)), (200, 1000), 0).double()
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 0.5) < 5 / math.sqrt(12 * x.numel())
    assert abs(x.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / x.numel())


def test_without_streams_torch_draws():
    torch.manual_seed(7)
    expected = torch.randn(3, 4)
    torch.manual_seed(7)
    assert torch.equal(noise.standard_normal((3, 4), 0), expected)


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), -1), ((3, 4), 0)])
def test_what_does_not_count_examples_comes_from_torch(draw, shape, axis):
    """A negative axis, or an axis of another length than the batch."""
    torch.manual_seed(7)
    expected = draw(shape, -1)
    torch.manual_seed(7)
    assert torch.equal(of(draw, 0, [1, 2], shape, axis), expected)


def test_blocks_nest_and_end(draw):
    with noise.per_example(0, torch.tensor([1])):
        outer = draw((1, 3), 0)
        with noise.per_example(5, torch.tensor([1])):
            inner = draw((1, 3), 0)
        second = draw((1, 3), 0)
    assert torch.equal(inner, of(draw, 5, [1], (1, 3), 0))
    assert torch.equal(second, of(draw, 0, [1], (1, 3), 0, requests=2))
    assert not torch.equal(outer, second)
    torch.manual_seed(7)
    free = draw((1, 3), 0)
    torch.manual_seed(7)
    assert torch.equal(draw((1, 3), 0), free)


def test_a_block_ends_with_an_exception(draw):
    with pytest.raises(RuntimeError), noise.per_example(0, torch.tensor([1])):
        raise RuntimeError
    torch.manual_seed(7)
    first = draw((1, 3), 0)
    torch.manual_seed(8)
    assert not torch.equal(draw((1, 3), 0), first)


def test_type_is_honoured(draw):
    with noise.per_example(0, torch.tensor([0, 1])):
        assert draw((2, 3), 0, dtype=torch.float64).dtype == torch.float64
        assert draw((2, 3), 0).dtype == torch.float32


def test_purposes_do_not_share_their_numbers():
    seeds = {
        derived_seed(seed, *purpose)
        for seed in range(20)
        for purpose in [("order", 0), ("order", 1), ("training",)]
    }
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_pixels_drawn_once_are_unrelated_to_the_latents_noise():
    """Correlation over 20,000 pairs at 5 standard errors: one false alarm in 10^6 runs."""
    grey = Examples.of(torch.full((2000, 10), 0.5)).prepare("binarize-once", seed=0).values.double()
    with per_example(0, torch.arange(2000)):
        latents = standard_normal((1, 2000, 10), 1, dtype=torch.float64)[0]
    assert (
        abs(float(torch.corrcoef(torch.stack([grey.flatten(), latents.flatten()]))[0, 1]))
        < 5 / 20_000**0.5
    )
