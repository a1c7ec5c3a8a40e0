"""Bits-back coding: every byte comes back, and the size is what the bound says."""

import json
import math
import tracemalloc
import zlib

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.evaluation import compression
from lowerbound.evaluation.compressed_bytes import pack, unpack
from lowerbound.evaluation.compressed_levels import read_levels
from lowerbound.evaluation.compression import compress, decompress

pytest.importorskip("constriction")


def _draw_from_a_model(levels, count=3000, units=3, entries=40):
    """A model with strong latents, a posterior that fits, and data that it generated."""
    torch.manual_seed(0)
    shape = (entries,)
    if levels == 2:
        likelihood = lb.Bernoulli(lb.mlp(units, entries))
    else:
        likelihood = lb.Categorical(lb.mlp(units, levels * entries), levels=levels)
    posterior = lb.Gaussian(lb.mlp(shape, 32, 2 * units))
    model = lb.LatentModel(lb.StandardNormal(units), posterior, likelihood)
    with torch.no_grad():
        likelihood.network.layers[-1].weight.mul_(4)
    x = model.sample(count, seed=1)
    data = lb.Examples((x * (levels - 1)).round().to(torch.uint8), levels=levels)
    lb.fit(model, lb.ELBO(), data, epochs=5, start=False, progress=False)
    return model, data


@pytest.fixture(scope="module", params=[2, 5])
def model_and_data(request):
    return _draw_from_a_model(request.param)


def test_every_value_comes_back(model_and_data):
    model, data = model_and_data
    packed, size = compress(model, data)
    restored = decompress(model, packed)
    assert torch.equal(restored.values, data.values)
    assert (restored.levels, restored.kind) == (data.levels, data.kind)
    assert size.bytes == len(packed)


def test_the_size_is_within_two_percent_of_the_bound(model_and_data):
    model, data = model_and_data
    _, size = compress(model, data)
    bound = lb.evaluate(model, lb.ELBO(), data).mean
    assert size.bound_bytes == pytest.approx(-bound * len(data) / math.log(256))
    assert abs(size.overhead) < 0.02
    assert size.bytes < size.raw_bytes


def test_the_bits_of_z_are_given_back(model_and_data):
    """Without that, each example would cost log q(z|x) more than minus its bound."""
    model, data = model_and_data
    _, size = compress(model, data)
    terms = lb.evaluate(model, lb.ELBO(), data).terms
    entropy_of_cells = 3 * math.log(8)  # at least so many nats for each example
    without = (terms["distortion"].mean + terms["rate"].mean + entropy_of_cells) * len(data)
    assert size.bytes < 0.9 * without / math.log(256)


@pytest.mark.parametrize("count", [1, 2, 3, 65])
def test_few_examples(model_and_data, count):
    model, data = model_and_data
    some = data.first(count)
    assert torch.equal(decompress(model, compress(model, some)[0]).values, some.values)


def test_codes_and_pictures():
    codes = lb.Examples(torch.randint(0, 7, (50, 1, 4, 4)), kind="codes", levels=7)

    class OfCodes(lb.Categorical):
        def check_data(self, x, rows, name="data", **fields):
            pass

        def forward(self, *given):
            p = super().forward(*given)
            return _Integers(p)

    class _Integers(torch.distributions.Distribution):
        support = torch.distributions.constraints.independent(
            torch.distributions.constraints.nonnegative_integer, 3
        )

        def __init__(self, base):
            self.base = base
            super().__init__(base.batch_shape, base.event_shape, validate_args=False)

        def log_prob(self, value):
            return self.base.log_prob(value / 6)

        def entrywise_log_prob(self, value):
            return self.base.entrywise_log_prob(value / 6)

    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp((1, 4, 4), 4)),
        OfCodes(lb.mlp(2, (7, 4, 4)), levels=7),
    )
    packed, _ = compress(model, codes)
    assert torch.equal(decompress(model, packed).values.long(), codes.values.long())


def test_a_learned_prior_serves():
    torch.manual_seed(0)
    model = lb.LatentModel(
        lb.Gaussian(lb.constant(4, value=0.7)),
        lb.Gaussian(lb.mlp(6, 4)),
        lb.Bernoulli(lb.mlp(2, 6)),
    )
    data = lb.Examples.of(torch.rand(200, 6) < 0.5)
    assert torch.equal(decompress(model, compress(model, data)[0]).values, data.values)


def _make_layers(merge, **top_down):
    return lb.LayeredModel(
        [lb.Gaussian(lb.mlp(2, 8, 6)), lb.StandardNormal(2)],
        [lb.Gaussian(lb.mlp({"product": 6}.get(merge, 8), 6)), lb.Gaussian(lb.mlp(5, 4))],
        lb.DiscretizedLogistic(lb.mlp(3, 16, (2, 6, 6)), levels=8),
        merge=merge,
        **top_down,
    )


@pytest.mark.parametrize("merge", ["concatenate", "product", "residual"])
def test_layers_serve_if_their_inference_is_top_down(merge):
    torch.manual_seed(0)
    features = [lb.mlp((1, 6, 6), 16, 6), lb.mlp(6, 5)]
    model = _make_layers(merge, features=features)
    x = torch.randint(5, (1500, 1, 1, 1)) + torch.randint(4, (1500, 1, 6, 6))
    data = lb.Examples(x.to(torch.uint8), levels=8)
    lb.fit(model, lb.ELBO(), data.first(700), epochs=15, batch_size=20, progress=False)
    assert lb.evaluate(model, lb.ELBO(), data).terms["rate z1"].mean > 0.1
    packed, size = compress(model, data)
    assert torch.equal(decompress(model, packed).values, data.values)
    assert size.overhead < 0.02


@pytest.mark.parametrize("units", [5, 200])
def test_few_examples_of_few_bits_do_not_pay_for_many_latents(units):
    """The latents of the first examples are popped from a stack that is nearly empty.

    200 units need about 1,000 bits. Earlier, 64 examples drew their latents at once, although each
    left only 30 bits.
    """
    torch.manual_seed(0)
    digits = lb.load_data("digits", pixels="binarize-once").train
    model = lb.LatentModel(
        lb.StandardNormal(units),
        lb.Gaussian(lb.mlp((1, 8, 8), 64, 2 * units)),
        lb.Bernoulli(lb.mlp(units, 64, (1, 8, 8))),
    )
    lb.fit(model, lb.ELBO(), digits, epochs=10, progress=False)
    packed, size = compress(model, digits)
    assert torch.equal(decompress(model, packed).values, digits.values)
    assert size.overhead < 0.02


def test_no_latent_lands_far_from_its_posterior():
    """With 65,000 cells for each latent, one in 250 did: the coder gives each cell 2^-24."""
    torch.manual_seed(0)
    units, entries = 20, 40
    model = lb.LatentModel(
        lb.StandardNormal(units),
        lb.Gaussian(lb.mlp(entries, 2 * units)),
        lb.Bernoulli(lb.mlp(units, entries)),
    )
    with torch.no_grad():
        weight, bias = model.posterior.network.layers[-1].parameters()
        weight[:units].normal_(0, 2 / math.sqrt(entries))  # means of variance 1
        weight[units:] = 0.0
        bias.copy_(torch.tensor([0.0, -12.0]).repeat_interleave(units))
        bias[:units] = -weight[:units].sum(1) / 2
        model.likelihood.network.layers[-1].weight.mul_(10)
    data = lb.Examples.of(torch.rand(2000, entries) < 0.5)
    packed, size = compress(model, data)
    assert torch.equal(decompress(model, packed).values, data.values)
    assert abs(size.overhead) < 0.005


def test_another_model_is_refused(model_and_data):
    model, data = model_and_data
    packed, _ = compress(model, data.first(5))
    other, _ = _draw_from_a_model(2, count=10)
    with pytest.raises(lb.errors.StorageError, match="another model"):
        decompress(other, packed)


def test_damage_is_noticed(model_and_data):
    model, data = model_and_data
    packed, _ = compress(model, data.first(100))
    changed = bytearray(packed)
    changed[-9] ^= 1
    with pytest.raises(lb.errors.StorageError, match="damaged"):
        decompress(model, bytes(changed))
    for broken in (b"", b"zip", packed[:30]):
        with pytest.raises(lb.errors.StorageError, match="damaged"):
            decompress(model, broken)


def test_damage_is_noticed_where_z_does_not_depend_on_x():
    """Then pushing z back does not depend on x, so the stack alone must reveal the damage."""
    torch.manual_seed(0)
    model = _of_parts()
    with torch.no_grad():
        for parameter in model.posterior.parameters():
            parameter.zero_()
    packed, _ = compress(model, torch.rand(100, 6) < 0.5)
    header, words = unpack(packed)
    emptied = header | {"groups": [0] * 12 + [2]}
    for change in (header, emptied):
        with pytest.raises(lb.errors.StorageError, match="damaged"):
            decompress(model, pack(change, words[:0]))
    for bit in range(64):
        changed = bytearray(packed)
        changed[-1 - bit // 8] ^= 1 << bit % 8
        with pytest.raises(lb.errors.StorageError, match="damaged"):
            decompress(model, bytes(changed))


def test_no_damage_gives_other_values_or_another_error(model_and_data):
    model, data = model_and_data
    packed, _ = compress(model, data.first(20))
    random = np.random.default_rng(0)
    for _ in range(15):
        changed = bytearray(packed)
        place = random.integers(len(packed))
        changed[place] ^= 1 << random.integers(8)
        cut = random.integers(len(packed))
        for broken in (bytes(changed), packed[:cut], packed[:cut] + packed[cut + 4 :]):
            if broken == packed:
                continue
            with pytest.raises(lb.errors.StorageError, match=r"damaged|another model"):
                decompress(model, broken)


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"shape": [-1]},
        {"steps": ["a"]},
        {"kind": 3},
        {"groups": []},
        {"groups": [1]},
        {"groups": [3]},
        {"groups": [10**12]},
        {"groups": [-1, 3]},
        {"groups": [2, *[0] * 40, 1]},
        {"groups": [0, 2]},
        {"steps": []},
        {"steps": [10**400, 1, 1]},
        {"steps": [5000, 1, 1]},
        {"cells": 2**40},
        {"cells": 2**23},
        {"kind": "counts"},
        {"kind": "foo"},
        {"levels": 10**10},
        {"shape": [10**10]},
        {"count": True},
    ],
)
def test_a_foreign_header_is_refused(change, model_and_data):
    model, data = model_and_data
    header, words = unpack(compress(model, data.first(2))[0])
    with pytest.raises(lb.errors.StorageError, match="damaged"):
        decompress(model, pack(header | change, words))


@pytest.mark.parametrize("foreign", [[], "text", {}, [1, 2]])
def test_a_header_that_is_not_a_list_of_its_values_is_refused(foreign, model_and_data):
    model, data = model_and_data
    packed, _ = compress(model, data.first(2))
    line = packed[: packed.index(b"\n") + 1]
    with pytest.raises(lb.errors.StorageError, match="damaged"):
        decompress(model, line + zlib.compress(json.dumps(foreign).encode()))


def test_a_header_that_would_fill_the_memory_is_not_unpacked(model_and_data):
    model, data = model_and_data
    packed, _ = compress(model, data.first(2))
    line = packed[: packed.index(b"\n") + 1]
    forged = line + zlib.compress(b" " * (1 << 28))
    tracemalloc.start()
    try:
        with pytest.raises(lb.errors.StorageError, match="damaged"):
            decompress(model, forged)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 24


def _of_parts(prior=None, posterior=None, likelihood=None):
    return lb.LatentModel(
        prior or lb.StandardNormal(2),
        posterior or lb.Gaussian(lb.mlp(6, 4)),
        likelihood or lb.Bernoulli(lb.mlp(2, 6)),
    )


def _of_labels():
    return lb.SemiSupervised(
        lb.StandardNormal(2),
        classifier=lb.mlp(6, 3),
        posterior=lb.Given(lb.Gaussian(lb.mlp(9, 4)), "y", categories=3),
        likelihood=lb.Given(lb.Bernoulli(lb.mlp(5, 6)), "y", categories=3),
        categories=3,
    )


def _of_codes():
    posterior = lb.VectorQuantized(lb.mlp(6, (2, 3)), codes=4)
    return _of_parts(lb.CodePrior(posterior), posterior, lb.Bernoulli(lb.mlp((2, 3), 6)))


UNSUPPORTED = {
    "a density": (
        lambda: _of_parts(likelihood=lb.Gaussian(lb.mlp(2, 12))),
        "is a density. Train a model of data with a known number of levels",
    ),
    "a prior that is a flow": (
        lambda: _of_parts(prior=lb.Flow("maf", 2)),
        "a prior that is a diagonal Gaussian.* train a model with one",
    ),
    "a posterior that is a flow": (
        lambda: _of_parts(posterior=lb.Flow("iaf", 2, context=6)),
        "a posterior that is a diagonal Gaussian.* train a model with one",
    ),
    "a full-rank posterior": (
        lambda: _of_parts(posterior=lb.FullRankGaussian(lb.mlp(6, 5))),
        "a posterior that is a diagonal Gaussian",
    ),
    "a point": (
        lambda: _of_parts(posterior=lb.Point(lb.mlp(6, 2))),
        "a posterior that is a diagonal Gaussian.* not a PointMass",
    ),
    "categories": (
        lambda: _of_parts(
            lb.OneHot(lb.constant((2, 3))),
            lb.OneHot(lb.mlp(6, (2, 3)), "straight-through"),
            lb.Bernoulli(lb.mlp((2, 3), 6)),
        ),
        "a prior that is a diagonal Gaussian.* not a FactorialOneHot",
    ),
    "codes": (_of_codes, "a prior that is a diagonal Gaussian.* not a FactorialCodeVectors"),
    "unit vectors": (
        lambda: _of_parts(lb.SphereUniform(2), lb.PowerSpherical(lb.mlp(6, 3))),
        "a prior that is a diagonal Gaussian.* not a SphereUniform",
    ),
    "fields": (
        lambda: _of_parts(likelihood=lb.Given(lb.Bernoulli(lb.mlp(3, 6)), "size")),
        "needs size; train one whose parts need none",
    ),
    "labels": (_of_labels, "a lb.LatentModel or a lb.LayeredModel; this is a SemiSupervised"),
    "bottom-up inference": (
        lambda: lb.LayeredModel(
            [lb.Gaussian(lb.mlp(2, 6)), lb.StandardNormal(2)],
            [lb.Gaussian(lb.mlp(6, 6)), lb.Gaussian(lb.mlp(3, 4))],
            lb.Bernoulli(lb.mlp(3, 6)),
        ),
        "needs top-down inference.* such as the recipes ladder and deep",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_compressed_is_named_before_any_value_is_read(name, monkeypatch):
    make, message = UNSUPPORTED[name]
    x = torch.rand(20, 6) < 0.5
    data = lb.Examples.of(x, fields={"size": torch.rand(20)})

    def read(examples):
        raise AssertionError("the data were read")

    monkeypatch.setattr(compression, "read_levels", read)
    with pytest.raises(lb.errors.UnsupportedError, match=message):
        compress(make(), data)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("flow-prior", "a prior that is a diagonal Gaussian"),
        ("flow-posterior", "a posterior that is a diagonal Gaussian"),
        ("categorical", "not a FactorialOneHot"),
        ("conditional", "needs label; train one whose parts need none"),
    ],
)
def test_the_command_refuses_a_model_before_it_opens_the_data(
    recipe, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    train = f"train {recipe} --data digits --steps 1 --pictures-every 0 --threads 1 --out run"
    with pytest.raises(SystemExit, match=r"^0$"):
        main(train.split())
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["compress", "run", "--data", "there-is-no-such-file.npy", "--out", "small.lbz"])
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "small.lbz").exists()


def test_a_model_without_finite_posteriors_is_refused():
    model = _of_parts()
    with torch.no_grad():
        next(model.posterior.parameters()).fill_(float("nan"))
    with pytest.raises(lb.errors.UnsupportedError, match="needs finite means"):
        compress(model, torch.rand(20, 6) < 0.5)


def test_real_numbers_are_refused():
    with pytest.raises(lb.errors.DataError, match="known number of levels"):
        compress(_of_parts(), torch.rand(20, 6).round())
    pixels = lb.Examples.of((torch.rand(20, 6) * 255).to(torch.uint8))
    with pytest.raises(lb.errors.DataError, match="binarize-once"):
        compress(_of_parts(), pixels.prepare("binarize"))


def test_values_that_would_not_come_back_are_refused():
    grey = lb.Examples(torch.full((20, 6), 0.4), levels=2)
    with pytest.raises(lb.errors.DataError, match=r"row 0 has the value 0\.4, which is"):
        read_levels(grey)
    many = lb.Examples(torch.zeros(20, 6), levels=1000)
    with pytest.raises(lb.errors.DataError, match="1,000 levels cannot be compressed"):
        read_levels(many)
    observed = torch.ones(20, 6, dtype=torch.bool)
    observed[3, 1] = False
    missing = lb.Examples.of(torch.rand(20, 6) < 0.5, fields={"observed": observed})
    model = _of_parts(likelihood=lb.Masked(lb.Bernoulli(lb.mlp(2, 6))))
    with pytest.raises(lb.errors.DataError, match="1 entry is missing, and which ones would be"):
        compress(model, missing)


def test_the_commands_restore_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 2, (80, 4, 4)).astype(bool)
    np.save("pictures.npy", pictures)
    train = "train aevb-bernoulli --data pictures.npy --latent 2 --hidden 4 --epochs 1 --out run"
    for command in (
        train,
        "compress run --out small.lbz --json",
        "decompress run small.lbz --out again.npy",
    ):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(command.split())
        out = capsys.readouterr().out
        if command.startswith("compress"):
            told = json.loads(out)
    assert told["bytes"] == (tmp_path / "small.lbz").stat().st_size
    assert np.array_equal(np.load("again.npy").reshape(pictures.shape).astype(bool), pictures)
