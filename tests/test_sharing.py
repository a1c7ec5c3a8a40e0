"""Parts that a model shares are stored once and shared again; layers of torch are made again."""

import copy
import json
import struct

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.describe import build, describe, find_foreign_parts
from lowerbound.runs.saving import find_shared_weights
from lowerbound.runs.tensor_files import read_tensors

IMAGE = (1, 8, 8)


@lb.describable
class Twice(nn.Module):
    """Two networks whose outputs are added."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x)


def stored_names(path) -> set[str]:
    """The names of the tensors in a file, read without lowerbound."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return set(json.loads(content[8 : 8 + length])) - {"__metadata__"}


def sharing_model() -> lb.LatentModel:
    """The encoder holds one network twice, and the decoder one layer of torch."""
    trunk, square = lb.mlp(IMAGE, 6, 4), nn.Linear(3, 3)
    decoder = nn.Sequential(nn.Linear(2, 3), square, nn.Tanh(), square, nn.Linear(3, 64))
    return lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(Twice(trunk, trunk)),
        lb.Bernoulli(lb.flatten_leading(nn.Sequential(decoder, nn.Unflatten(1, IMAGE)), 2, IMAGE)),
    )


# References


def test_a_module_that_occurs_twice_is_described_once_and_built_once():
    layer, relu = nn.Linear(3, 3), nn.ReLU()
    description = describe(nn.Sequential(layer, relu, nn.Sequential(layer, relu)))
    first, second, inner = description["modules"]
    assert first["kind"] == "torch.nn.Linear"
    assert second == {"kind": "torch.nn.ReLU", "inplace": False}
    assert inner["modules"] == [{"shared": ["modules", 0]}, {"shared": ["modules", 1]}]
    again = build(json.loads(json.dumps(description)))
    assert again[2][0] is again[0]
    assert again[2][1] is again[1]
    assert describe(again) == description


def test_a_reference_may_come_before_what_it_refers_to():
    """Sorting the keys of a file must not matter."""
    description = describe(Twice(layer := nn.Linear(2, 2), layer))
    again = build(dict(sorted(description.items(), reverse=True)))
    assert again.first is again.second


def test_equal_modules_that_are_not_one_stay_apart():
    again = build(describe(Twice(nn.Linear(2, 2), nn.Linear(2, 2))))
    assert again.first is not again.second


def test_a_module_that_contains_itself_is_refused():
    part = Twice(nn.Identity(), nn.Identity())
    part.first = nn.Sequential()
    part.first._modules["0"] = part
    with pytest.raises(lb.errors.StorageError, match="Twice contains itself"):
        describe(part)


# Files


def test_shared_tensors_are_stored_once_and_shared_again(tmp_path):
    model = sharing_model()
    path = lb.save(model, tmp_path / "vae")
    assert read_tensors(path)[1]["format"] == 2
    assert find_shared_weights(model)
    assert stored_names(path) == set(model.state_dict()) - find_shared_weights(model).keys()
    again = lb.load(path)
    assert again.posterior.network.first is again.posterior.network.second
    decoder = again.likelihood.network.network[0]
    assert decoder[1] is decoder[3]
    assert describe(again) == describe(model)
    x = torch.rand(5, *IMAGE).round()
    bounds = [lb.evaluate(one, lb.ELBO(samples=3), x).per_example for one in (model, again)]
    assert torch.equal(*bounds)
    assert len(list(again.parameters())) == len(list(model.parameters()))


def test_a_model_without_sharing_is_a_file_of_the_first_format(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    header = read_tensors(lb.save(lb.Gaussian(network), tmp_path / "part"))[1]
    assert header["format"] == 1
    assert header.keys() == {"model", "lowerbound", "format"}


@pytest.mark.parametrize("with_constructor", [False, True])
def test_tied_parameters_are_stored_once_and_tied_again(with_constructor, tmp_path):
    def make():
        return Twice(lb.mlp(4, 3), lb.mlp(4, 3))

    model = make()
    model.second.layers[0].weight = model.first.layers[0].weight
    path = lb.save(model, tmp_path / "part")
    assert stored_names(path) == set(model.state_dict()) - {"second.layers.0.weight"}
    again = lb.load(path, make if with_constructor else None)
    assert again.second.layers[0].weight is again.first.layers[0].weight
    assert again.second.layers[0].bias is not again.first.layers[0].bias
    x = torch.rand(2, 4)
    assert torch.equal(again(x), model(x))


def test_a_constructor_rebuilds_a_foreign_part_that_is_shared(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x):
            return self.linear(x)

    def make():
        own = Own()
        return Twice(own, own)

    model = make()
    path = lb.save(model, tmp_path / "part")
    assert stored_names(path) == {"first.linear.weight", "first.linear.bias"}
    again = lb.load(path, make)
    assert again.first is again.second
    assert all(map(torch.equal, again.parameters(), model.parameters()))


def test_a_run_of_a_sharing_model_stores_once_resumes_exactly_and_loads(tmp_path):
    x = (torch.rand(60, *IMAGE, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    settings = {"seed": 3, "progress": False, "validation": x[:10], "ema": 0.9, "batch_size": 20}
    torch.manual_seed(0)
    start = sharing_model()
    through, halves = copy.deepcopy(start), copy.deepcopy(start)
    lb.fit(through, lb.ELBO(), x, epochs=4, directory=tmp_path / "a", **settings)
    lb.fit(halves, lb.ELBO(), x, epochs=2, directory=tmp_path / "b", **settings)
    resumed = copy.deepcopy(start)
    lb.fit(resumed, lb.ELBO(), x, epochs=4, directory=tmp_path / "b", resume=True, **settings)
    for name, value in through.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    shared = find_shared_weights(start)
    for file in (tmp_path / "b").rglob("*.safetensors"):
        if file.name in ("model.safetensors", "averaged.safetensors"):
            assert stored_names(file) == set(start.state_dict()) - shared.keys()
    loaded = lb.load(tmp_path / "b")
    assert loaded.posterior.network.first is loaded.posterior.network.second
    bounds = [lb.evaluate(one, lb.ELBO(), x).per_example for one in (loaded, resumed)]
    assert torch.equal(*bounds)


def test_a_run_whose_layers_were_foreign_to_an_earlier_version_is_resumed(tmp_path):
    """Such versions wrote the name of a layer's class alone."""
    import yaml

    def make():
        return lb.LatentModel(
            lb.StandardNormal(2),
            lb.Gaussian(nn.Sequential(nn.Flatten(), nn.Linear(64, 4))),
            lb.Bernoulli(lb.mlp(2, 3, IMAGE, activation=nn.PReLU)),
        )

    x = torch.rand(20, *IMAGE).round()
    settings = {"directory": tmp_path / "run", "progress": False}
    lb.fit(make(), lb.ELBO(), x, epochs=1, **settings)
    file = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    sequential = {"foreign": "torch.nn.modules.container.Sequential"}
    config["model"]["posterior"]["network"] = sequential
    prelu = {"foreign": "torch.nn.modules.activation.PReLU"}
    config["model"]["likelihood"]["network"]["activation"] = prelu
    file.write_text(yaml.safe_dump(config))
    lb.fit(make(), lb.ELBO(), x, epochs=2, resume=True, **settings)
    config["model"]["posterior"]["network"] = {"foreign": "mine.Network"}
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(lb.errors.SettingsError, match="model"):
        lb.fit(make(), lb.ELBO(), x, epochs=3, resume=True, **settings)


# Networks of lowerbound


def test_random_constants_that_are_not_learned_are_saved(tmp_path):
    prior = lb.Gaussian(lb.constant(4, learned=False, spread=1.0))
    again = lb.load(lb.save(prior, tmp_path / "prior"))
    assert torch.equal(again().mean, prior().mean)


# Layers of torch

LAYERS = {
    "Linear": lambda: nn.Linear(3, 4),
    "Linear without bias": lambda: nn.Linear(3, 4, bias=False),
    "Conv1d": lambda: nn.Conv1d(2, 2, 3, 2, 1, padding_mode="circular", groups=2),
    "Conv2d": lambda: nn.Conv2d(1, 2, 3, padding="same", bias=False),
    "Conv3d": lambda: nn.Conv3d(1, 2, (1, 2, 3)),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(1, 2, 3, 2, 1, 1),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(2, 2, 3, 2, 1, 1, groups=2, dilation=2),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(1, 2, 3),
    "BatchNorm1d": lambda: nn.BatchNorm1d(3, eps=0.1),
    "BatchNorm2d": lambda: nn.BatchNorm2d(3, affine=False, momentum=None),
    "BatchNorm3d": lambda: nn.BatchNorm3d(3, track_running_stats=False),
    "LayerNorm": lambda: nn.LayerNorm([3, 4]),
    "LayerNorm without bias": lambda: nn.LayerNorm(3, bias=False),
    "LayerNorm without parameters": lambda: nn.LayerNorm(3, elementwise_affine=False),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(3, affine=True),
    "Embedding": lambda: nn.Embedding(4, 3, padding_idx=1, max_norm=2.0),
    "Dropout": lambda: nn.Dropout(0.1),
    "Dropout2d": lambda: nn.Dropout2d(0.2, inplace=True),
    "PReLU": lambda: nn.PReLU(3, 0.1),
    "LeakyReLU": lambda: nn.LeakyReLU(0.3),
    "Softplus": lambda: nn.Softplus(2.0, 3.0),
    "Hardtanh": lambda: nn.Hardtanh(-2.0, 2.0),
    "GELU": lambda: nn.GELU("tanh"),
    "Softmax": lambda: nn.Softmax(1),
    "Flatten": lambda: nn.Flatten(2, 3),
    "Unflatten": lambda: nn.Unflatten(1, [2, 3]),
    "MaxPool2d": lambda: nn.MaxPool2d(2, 3, 1),
    "AvgPool2d": lambda: nn.AvgPool2d(2, count_include_pad=False),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d((1, None)),
    "Upsample by a factor": lambda: nn.Upsample(scale_factor=2),
    "Upsample to a size": lambda: nn.Upsample(size=(4, 4), mode="bilinear", align_corners=True),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "ReflectionPad2d": lambda: nn.ReflectionPad2d(1),
    "Identity": nn.Identity,
    "named children": lambda: nn.ModuleDict({"kind": nn.Linear(1, 2), "b": nn.ReLU()}),
    "a list": lambda: nn.ModuleList([nn.Linear(1, 2), nn.Sequential()]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_torch_are_rebuilt_without_a_constructor(name, tmp_path):
    layer = LAYERS[name]()
    state = torch.get_rng_state()
    description = describe(layer)
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(find_foreign_parts(description))
    again = lb.load(lb.save(layer, tmp_path / "layer"))
    assert describe(again) == description
    assert type(again) is type(layer)
    for key, value in layer.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def _with(layer: nn.Module, change) -> nn.Module:
    change(layer)
    return layer


CHANGED = {
    "a subclass": lambda: type("Linear", (nn.Linear,), {})(2, 2),
    "a hook": lambda: _with(
        nn.Linear(2, 2), lambda layer: layer.register_forward_hook(lambda *_: None)
    ),
    "a container's hook": lambda: _with(
        nn.Sequential(), lambda layer: layer.register_forward_pre_hook(lambda *_: None)
    ),
    "a buffer": lambda: _with(
        nn.Linear(2, 2), lambda layer: layer.register_buffer("mask", torch.ones(2))
    ),
    "a submodule": lambda: _with(nn.Linear(2, 2), lambda layer: layer.add_module("a", nn.ReLU())),
    "a container's parameter": lambda: _with(
        nn.Sequential(), lambda layer: layer.register_parameter("a", nn.Parameter(torch.ones(2)))
    ),
    "another shape": lambda: _with(
        nn.Linear(2, 2), lambda layer: setattr(layer, "weight", nn.Parameter(torch.ones(3, 2)))
    ),
    "a replaced method": lambda: _with(
        nn.Linear(2, 2), lambda layer: setattr(layer, "forward", lambda x: x)
    ),
    "a tensor as a setting": lambda: _with(
        nn.LayerNorm(2), lambda layer: setattr(layer, "eps", torch.tensor(1e-3))
    ),
    "a setting that is kept twice": lambda: _with(
        nn.Conv2d(1, 1, 3, padding=1), lambda layer: setattr(layer, "padding", (2, 2))
    ),
    "frozen": lambda: _with(nn.Linear(2, 2), lambda layer: layer.requires_grad_(False)),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)),
    "recurrent": lambda: nn.GRU(2, 2),
}


@pytest.mark.parametrize("name", CHANGED)
def test_layers_that_were_changed_need_a_constructor(name, tmp_path):
    layer = CHANGED[name]()
    [(path, _)] = find_foreign_parts(describe(nn.Sequential(nn.ReLU(), layer)))
    assert path == "model.modules[1]"
    with pytest.raises(lb.errors.StorageError, match=r"constructor=make_model"):
        lb.load(lb.save(layer, tmp_path / "layer"))


def test_a_network_of_torch_layers_needs_no_constructor(tmp_path):
    encoder = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
    )
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Dropout(0.1), nn.Unflatten(1, IMAGE))
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(encoder),
        lb.Bernoulli(lb.flatten_leading(decoder, 2, IMAGE)),
    )
    x = torch.rand(20, *IMAGE).round()
    lb.fit(model, lb.ELBO(), x, epochs=2, progress=False)
    again = lb.load(lb.save(model, tmp_path / "vae"))
    bounds = [lb.evaluate(one, lb.ELBO(samples=3), x).per_example for one in (model, again)]
    assert torch.equal(*bounds)
