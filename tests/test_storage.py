"""Files of models: what comes back, what is refused, and with which words."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lowerbound as lb
from lowerbound.describe import KINDS, build, describe, find_foreign_parts
from lowerbound.errors import SettingsError, StorageError
from lowerbound.runs.saving import FORMAT
from lowerbound.runs.tensor_files import read_tensors, write_tensors

IMAGE = (1, 8, 8)

POSTERIORS = {
    "mlp": lambda: lb.Gaussian(lb.mlp(IMAGE, 6, 4, activation="tanh")),
    "no hidden layer": lambda: lb.Gaussian(lb.mlp(IMAGE, 4)),
    "conv": lambda: lb.Gaussian(lb.conv(IMAGE, 2, 3, 4, hidden=(5,), stride=(2, 1))),
    "flattened": lambda: lb.Gaussian(lb.flatten_leading(lb.mlp(IMAGE, 4), IMAGE)),
    "fixed scale": lambda: lb.Gaussian(lb.mlp(IMAGE, 2), scale=0.5),
}
LIKELIHOODS = {
    "gaussian": lambda: lb.Gaussian(lb.mlp(2, 6, (2, 8, 8)), min_scale=0.05, max_scale=7.0),
    "shared scale": lambda: lb.Gaussian(lb.mlp(2, 6, IMAGE), scale="shared", mean="sigmoid"),
    "elementwise scale": lambda: lb.Gaussian(lb.mlp(2, IMAGE), scale="elementwise"),
    "bernoulli": lambda: lb.Bernoulli(lb.mlp(2, 6, IMAGE, activation="silu")),
    "bernoulli conv": lambda: lb.Bernoulli(lb.conv(2, 3, 2, IMAGE)),
}


def combine(posterior: str = "mlp", likelihood: str = "gaussian") -> lb.LatentModel:
    model = lb.LatentModel(lb.StandardNormal(2), POSTERIORS[posterior](), LIKELIHOODS[likelihood]())
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def rewrite_header(path, **changes) -> None:
    """Another header for the same tensors; a value of ``None`` leaves the entry out."""
    tensors, header = read_tensors(path)
    kept = {name: value for name, value in (header | changes).items() if value is not None}
    write_tensors(path, tensors, kept)


class MyNetwork(nn.Module):
    """A network of one's own that does not say how it was made."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(64, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(-3))


def with_my_network(outputs: int = 4) -> lb.LatentModel:
    return lb.LatentModel(
        lb.StandardNormal(outputs // 2),
        lb.Gaussian(MyNetwork(outputs)),
        lb.Bernoulli(lb.mlp(outputs // 2, IMAGE)),
    )


@pytest.fixture
def x() -> torch.Tensor:
    return (torch.rand(5, *IMAGE) < 0.5).float()


@pytest.fixture
def file(tmp_path):
    return lb.save(combine(), tmp_path / "vae")


# Round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_a_model_comes_back_bit_by_bit(posterior, likelihood, dtype, x, tmp_path):
    model = combine(posterior, likelihood).to(dtype)
    again = lb.load(lb.save(model, tmp_path / "vae.safetensors"))
    assert repr(again) == repr(model.eval())
    assert describe(again) == describe(model)
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    for name, value in again.state_dict().items():
        assert value.dtype == dtype
        assert torch.equal(value, state[name])
    bounds = [lb.evaluate(one, lb.ELBO(samples=3), x).per_example for one in (model, again)]
    assert torch.equal(*bounds)
    assert torch.equal(again.sample(3, seed=1), model.sample(3, seed=1))


def test_a_loaded_model_is_in_evaluation_mode(file):
    assert not any(module.training for module in lb.load(file).modules())


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = combine()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lb.save(model, tmp_path / "vae")
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_saving_again_replaces_the_file(file, tmp_path):
    other = combine("conv", "bernoulli")
    assert lb.save(other, file) == file
    assert describe(lb.load(file)) == describe(other)
    assert [path.name for path in tmp_path.iterdir()] == ["vae.safetensors"]


def test_folders_are_made_and_the_suffix_is_added(tmp_path):
    path = lb.save(combine(), tmp_path / "a" / "b" / "vae")
    assert path == tmp_path / "a" / "b" / "vae.safetensors"
    assert path.exists()


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/vae\.safetensors: cannot be written"):
        lb.save(combine(), tmp_path / "file" / "vae")


def test_the_file_begins_with_a_length_and_json(file):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    assert json.loads(header["format"]) == 1
    assert json.loads(header["model"])["kind"] == "LatentModel"


# Networks of one's own


def test_without_a_constructor_a_foreign_part_is_named_with_the_way_out(tmp_path):
    path = lb.save(with_my_network(), tmp_path / "vae")
    with pytest.raises(
        StorageError, match=r"model\.posterior\.network is a .*MyNetwork.*constructor=make_model"
    ):
        lb.load(path)


def test_with_a_constructor_it_comes_back(x, tmp_path):
    model = with_my_network()
    again = lb.load(lb.save(model, tmp_path / "vae"), with_my_network)
    assert not again.training
    assert torch.equal(again.encode(x), model.encode(x))


def test_a_constructor_of_another_model_is_refused(tmp_path):
    path = lb.save(with_my_network(), tmp_path / "vae")
    with pytest.raises(
        StorageError, match=r"do not fit the model that was constructed: .*linear\.weight"
    ):
        lb.load(path, lambda: with_my_network(6))


def test_a_constructor_makes_the_precision_that_was_saved(tmp_path):
    path = lb.save(with_my_network().double(), tmp_path / "vae")
    assert {value.dtype for value in lb.load(path, with_my_network).state_dict().values()} == {
        torch.float64
    }


def test_an_activation_of_ones_own_is_a_foreign_part_too():
    class MyActivation(nn.ReLU):
        pass

    def make_activation():
        return nn.ReLU()

    for activation in (MyActivation, make_activation):
        model = lb.Gaussian(lb.mlp(6, 5, 4, activation=activation))
        [(path, name)] = find_foreign_parts(describe(model))
        assert path == "model.network.activation"
        assert name.endswith(f".{activation.__name__}")


@lb.describable
class Scaled(nn.Module):
    """A part of one's own that says how it was made."""

    def __init__(self, inner: nn.Module, factor: float = 2.0) -> None:
        super().__init__()
        self.inner = inner
        self.factor = factor
        self.output_shape = inner.output_shape

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.factor * self.inner(z)


def test_a_describable_part_needs_no_constructor(x, tmp_path):
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(IMAGE, 4)),
        lb.Bernoulli(Scaled(lb.mlp(2, IMAGE), factor=0.3)),
    )
    again = lb.load(lb.save(model, tmp_path / "vae"))
    assert again.likelihood.network.factor == 0.3
    assert torch.equal(again.reconstruct(x), model.reconstruct(x))


def test_a_describable_part_that_forgets_an_argument_is_named():
    @lb.describable
    class Forgetful(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()

    with pytest.raises(
        StorageError, match=r"Forgetful is describable, but does not store the attribute 'width'"
    ):
        describe(Forgetful(3))


def test_a_class_cannot_take_the_name_of_another():
    class Gaussian(nn.Module):
        pass

    with pytest.raises(
        SettingsError, match=r"lowerbound\.conditionals\.gaussian\.Gaussian is registered"
    ):
        lb.describable(Gaussian)
    assert build({"kind": "StandardNormal", "shape": [2]}).shape == (2,)


def test_a_class_may_be_defined_again():
    again = type(
        "Scaled",
        (nn.Module,),
        {"__module__": Scaled.__module__, "__qualname__": Scaled.__qualname__},
    )
    assert lb.describable(again) is again
    assert lb.describable(Scaled) is Scaled


@pytest.mark.parametrize("name", ["kind", "foreign", "shared"])
def test_words_of_descriptions_are_no_arguments(name):
    code = f"def __init__(self, {name}): pass"
    namespace: dict = {}
    exec(code, namespace)
    cls = type("Reserved", (nn.Module,), {"__init__": namespace["__init__"]})
    with pytest.raises(SettingsError, match=f"Reserved has an argument '{name}'.* rename"):
        lb.describable(cls)
    assert "Reserved" not in KINDS


def test_words_of_descriptions_are_no_options():
    with pytest.raises(StorageError, match="Tables has an argument 'shared'"):
        describe(Tables(torch.rand(2), torch.tensor([1]), None, shared=3))


@lb.describable
class Tables(nn.Module):
    """A part that keeps tensors and options among its arguments."""

    def __init__(self, weight, index, inner=None, **options):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("index", index)
        self.inner = inner
        self.options = options


def test_tensor_arguments_are_among_the_weights_and_options_among_the_arguments(tmp_path):
    options = {"by": (1, 2), "nested": {"a b": nn.Linear(2, 1), "c": {}}, "activation": nn.ELU}
    part = Tables(torch.rand(2, 3), torch.tensor([1, 2]), None, **options)
    assert describe(part)["weight"] == {"kind": "torch.Tensor", "shape": [2, 3]}
    again = lb.load(lb.save(part, tmp_path / "part"))
    assert torch.equal(again.weight, part.weight)
    assert torch.equal(again.index, part.index)
    assert again.index.dtype == torch.int64
    assert again.options["by"] == (1, 2)
    assert again.options["activation"] is nn.ELU
    assert again.options["nested"].keys() == {"a b", "c"}


def test_a_tensor_that_is_not_saved_is_a_foreign_part():
    part = Tables(torch.rand(2), torch.tensor([1]))
    part.register_buffer("index", torch.tensor([1]), persistent=False)
    assert list(find_foreign_parts(describe(part))) == [("model.index", "torch.Tensor")]


# Files that are not what they should be


@pytest.mark.parametrize(
    "keep", [0, 4, 100, -1], ids=["empty", "length", "header", "one byte short"]
)
def test_a_truncated_file_is_refused_by_name(keep, file):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(StorageError, match=r"vae\.safetensors: is not a readable safetensors file"):
        lb.load(file)


def test_a_file_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x89PNG not at all" * 30)
    with pytest.raises(StorageError, match="not a readable safetensors file"):
        lb.load(tmp_path / "x.safetensors")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"nothing: neither a run directory nor a model"):
        lb.load(tmp_path / "nothing")


def test_a_name_without_a_suffix_is_saved_and_loaded_alike(tmp_path):
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6)))
    assert lb.save(vae, tmp_path / "vae-0.1").name == "vae-0.1.safetensors"
    assert torch.equal(lb.load(tmp_path / "vae-0.1").sample(3, seed=0), vae.sample(3, seed=0))
    assert lb.load(tmp_path / "vae-0.1", vae) is vae


def test_an_empty_folder_is_no_run(tmp_path):
    with pytest.raises(StorageError, match=r"no config\.yaml, so it is not the directory of a run"):
        lb.load(tmp_path)


def test_a_file_of_the_future_says_who_wrote_it(file):
    rewrite_header(file, format=FORMAT + 1, lowerbound="7.8")
    with pytest.raises(StorageError, match=r"was written by lowerbound 7\.8, a newer version"):
        lb.load(file)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"model": "a name"}])
def test_tensors_of_another_program_are_told_apart(metadata, tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(StorageError, match="no description of a model"):
        lb.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "os.system"}, "not a registered part"),
        ({"kind": ["LatentModel"]}, "not a registered part"),
        ({"kind": "LatentModel", "prior": 1}, "does not fit this version"),
        ({"kind": "ELBO", "samples": 1}, "does not describe a model"),
        (3, "does not describe a model"),
    ],
)
def test_a_description_runs_nothing_but_registered_parts(description, message, file):
    rewrite_header(file, model=description)
    with pytest.raises(StorageError, match=message):
        lb.load(file)


def test_weights_of_another_model_are_refused(file):
    other = describe(combine("mlp", "bernoulli"))
    rewrite_header(file, model=other)
    with pytest.raises(StorageError, match="do not fit"):
        lb.load(file)


@pytest.mark.parametrize("value", [None, True, 3, 0.1, "relu", (1, 2), ((1,), 2.5)])
def test_plain_values_come_back_through_json(value):
    assert build(json.loads(json.dumps(describe(value)))) == value


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"shared": []}, "refers to itself"),
        ({"shared": ["prior"]}, "refers to prior, which is not in it"),
        ({"shared": "prior"}, "refers to 'prior', which is not a path"),
        ({"shared": [["prior"]]}, "which is not a path"),
        ({"kind": "torch.nn.Module"}, "not a registered part"),
        ({"kind": "torch.nn.Linear", "in_features": 3}, "does not fit this version"),
        ({"kind": "torch.Tensor", "shape": [2], "dtype": "load"}, "does not fit this version"),
        ({"class": "os.system"}, "not a registered part"),
        ({"kind": "torch.nn.Sequential", "modules": [3]}, "does not fit this version"),
    ],
)
def test_a_damaged_description_is_refused(description, message):
    with pytest.raises(StorageError, match=message):
        build(description)
