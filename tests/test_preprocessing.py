"""A trained model takes raw data: in the process that trained it, and after it was loaded."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.data import Examples, Preprocessing, load_data
from lowerbound.data.raw import read_raw
from lowerbound.describe import build, describe
from lowerbound.errors import DataError, ShapeError, StorageError

RANDOM = np.random.default_rng(0)
CLASSES = ("cat", "dog", "fox")
QUICK = {"epochs": 1, "progress": False}
FROM_A_FILE = """
import sys, torch, lowerbound as lb
model = lb.load(sys.argv[1])
torch.save(model.encode(sys.argv[2]), sys.argv[3])
"""


def picture(height: int, width: int) -> Image.Image:
    """A smooth picture in colour, which survives a JPEG file."""
    small = RANDOM.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def folder_of(path, names=CLASSES, sides=((24, 30),), count=6):
    for name in names:
        (path / name).mkdir(parents=True)
        for number in range(count):
            image = picture(*sides[number % len(sides)])
            image.save(path / name / f"{number}.jpg", quality=95)
    return path


def vae(shape=(1, 16, 16), **parts):
    size = (2 * shape[0], *shape[1:])
    made = {
        "prior": lb.StandardNormal(2),
        "posterior": lb.Gaussian(lb.mlp(shape, 4)),
        "likelihood": lb.Gaussian(lb.mlp(2, size)),
    }
    return lb.LatentModel(**{**made, **parts})


def conditional(shape=(1, 16, 16), categories=3):
    likelihood = lb.Gaussian(lb.mlp(2 + categories, (2, *shape[1:])))
    return vae(shape, likelihood=lb.Given(likelihood, "label", categories=categories))


def trained(model, source, **settings):
    lb.fit(model, lb.ELBO(), load_data(source, **settings).train, **QUICK)
    return model


def header(path) -> dict:
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(value) for name, value in file.metadata().items()}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A folder of pictures, and a folder of larger ones of several sizes."""
    home = tmp_path_factory.mktemp("pictures")
    return folder_of(home / "seen")


@pytest.fixture(scope="module")
def larger(seen):
    return folder_of(seen.parent / "larger", ("fox", "cat"), ((40, 33), (51, 70)))


@pytest.fixture(scope="module")
def model(seen):
    torch.manual_seed(1)
    return trained(conditional(), seen, image_size=16, color="grey")


def test_load_data_attaches_what_it_did(seen):
    data = load_data(seen, image_size=(16, 12), color="grey", resize="stretch", pixels="dequantize")
    found = data.preprocessing
    assert found == data.train.preprocessing == data.test.preprocessing
    assert found == Preprocessing(
        (1, 16, 12),
        levels=256,
        pixels="dequantize",
        resize="stretch",
        fields={"label": CLASSES},
    )
    assert (found.image_size, found.color) == ((16, 12), "grey")
    for part in (data.train.first(3), data.train.to("cpu"), data.train.split(0.5)[0], data.all()):
        assert part.preprocessing == found


def test_it_follows_another_treatment_of_pixels():
    pictures = RANDOM.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    once = load_data(pictures, pixels="binarize-once", seed=3).train
    assert (once.levels, once.preprocessing.levels) == (2, 256)
    assert (once.preprocessing.pixels, once.preprocessing.seed) == ("binarize-once", 3)
    assert once.prepare("binarize").preprocessing == once.preprocessing
    assert once.prepare("dequantize").preprocessing is None
    grey = load_data(pictures).train
    assert grey.prepare("binarize", seed=4).preprocessing == replace(
        grey.preprocessing, pixels="binarize"
    )


def test_examples_that_know_how_they_were_made_stay_as_they_are(seen):
    data = load_data(seen, image_size=16, resize="stretch")
    assert load_data(data).train is data.train
    assert load_data(data, image_size=8).preprocessing.shape == (3, 8, 8)
    assert Examples.of(torch.rand(4, 3)).preprocessing is None


def test_it_is_described_and_made_again():
    whole = Preprocessing(
        (5,), None, "counts", "as-is", 0, "crop", "nan", "raw", {"batch": ("a", "b"), "age": None}
    )
    assert build(json.loads(json.dumps(describe(whole)))) == whole
    later = {"kind": "Preprocessing", "shape": [5], "standardised": True}
    with pytest.raises(StorageError, match="does not fit this version"):
        build(later)


def test_a_saved_model_takes_other_pictures_in_a_fresh_process(model, larger, tmp_path):
    """As through ``load_data``, with the settings of the training."""
    plain = vae(posterior=model.posterior)
    plain.preprocessing = model.preprocessing
    path = lb.save(plain, tmp_path / "model")
    program = [sys.executable, "-c", FROM_A_FILE, str(path), str(larger), str(tmp_path / "z.pt")]
    subprocess.run(program, check=True)
    whole = load_data(larger, image_size=16, color="grey").all()
    assert torch.equal(torch.load(tmp_path / "z.pt"), plain.encode(whole))


def test_pictures_come_in_many_ways(model, larger):
    expected = load_data(larger, image_size=16, color="grey").all()
    files = [larger / name for name in expected.files]
    images = [Image.open(file) for file in files]
    names = [CLASSES[code] for code in model.examples(larger).labels]
    assert names == [file.parent.name for file in files]
    for pictures in (larger, str(larger), files, tuple(map(str, files)), images):
        assert torch.equal(model.examples(pictures).values, expected.values)
    for one in (images[0], files[0], str(files[0])):
        assert torch.equal(model.examples(one).values, expected.values[:1])
    same = torch.stack([torch.from_numpy(np.array(image)) for image in images[::2]])
    for array in (same, same.numpy(), same.movedim(3, 1), same.tolist()):
        taken = array
        if isinstance(array, list):
            taken = np.array(array, dtype=np.uint8)
        assert torch.equal(model.examples(taken).values, expected.values[::2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_a_picture_in_memory_is_read_as_its_file_is(mode, model, tmp_path):
    image = picture(20, 20).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert torch.equal(model.examples([image]).values, model.examples([path]).values)


def test_labels_get_the_integers_of_the_training(model, larger):
    """The folder alone would number ``cat`` 0 and ``fox`` 1."""
    examples = model.examples(larger)
    assert examples.label_names == CLASSES
    assert sorted(set(examples.labels.tolist())) == [0, 2]
    assert load_data(larger, image_size=16).all().labels.max() == 1
    raw = lb.evaluate(model, lb.ELBO(), larger)
    assert raw.mean == lb.evaluate(model, lb.ELBO(), examples).mean


def test_labels_that_are_not_known(model, tmp_path):
    strange = folder_of(tmp_path / "strange", ("cat", "wolf"), count=2)
    with pytest.raises(DataError, match="category 'wolf', but the model was trained on cat, dog"):
        model.examples(strange)
    plain = vae()
    plain.preprocessing = model.preprocessing
    assert plain.examples(strange).label_names == ("cat", "wolf")


def test_categories_by_name(model):
    for given, same in ((2, "fox"), ([0, 2], ["cat", "fox"]), ([1, 1], np.array(["dog", "dog"]))):
        count = np.size(given) if np.ndim(given) else 3
        drawn = [model.sample(count, seed=0, label=label) for label in (given, same)]
        assert torch.equal(*drawn)
    pictures = torch.rand(2, 1, 16, 16)
    examples = Examples(pictures, labels=torch.tensor([0, 1]))
    assert torch.equal(
        model.reconstruct(examples, label="dog"), model.reconstruct(examples, label=1)
    )
    with pytest.raises(DataError, match="is not a category; the categories are cat, dog, fox"):
        model.sample(2, label="wolf")
    with pytest.raises(DataError, match="does not know the names of the categories of 'label'"):
        conditional().sample(2, label="fox")


def test_fields_of_text_keep_their_integers():
    def table(batches):
        values = torch.rand(len(batches), 4, generator=torch.Generator().manual_seed(0))
        return Examples(values, fields={"batch": batches})

    likelihood = lb.Given(lb.Gaussian(lb.mlp(2 + 3, 8)), "batch", categories=3)
    model = vae((4,), posterior=lb.Gaussian(lb.mlp(4, 4)), likelihood=likelihood)
    trained(model, table(["a", "b", "c"] * 5))
    assert model.preprocessing.fields == {"batch": ("a", "b", "c")}
    assert torch.equal(model.sample(3, seed=0, batch="c"), model.sample(3, seed=0, batch=2))


def test_a_file_is_asked_for_the_fields_that_the_model_needs(tmp_path):
    draw = np.random.default_rng(0)
    for name, batches in (("seen", ["a", "b", "c"] * 6), ("new", ["c", "a"])):
        values = draw.random((len(batches), 4), dtype=np.float32)
        np.savez(tmp_path / f"{name}.npz", x=values, batch=np.array(batches), age=values[:, 0])
    likelihood = lb.Given(lb.Gaussian(lb.mlp(2 + 3, 8)), "batch", categories=3)
    model = vae((4,), posterior=lb.Gaussian(lb.mlp(4, 4)), likelihood=likelihood)
    trained(model, tmp_path / "seen.npz", fields="batch,age")
    new = model.examples(tmp_path / "new.npz")
    assert new.fields["batch"].tolist() == [2, 0]
    assert "age" not in new.fields


def test_pixels_are_treated_as_in_the_training():
    bytes_ = RANDOM.integers(0, 256, (30, 8, 8), dtype=np.uint8)
    for pixels in ("dequantize", "binarize", "binarize-once"):
        data = load_data(bytes_, pixels=pixels, seed=5)
        model = trained(vae((1, 8, 8)), data)
        again = model.examples(bytes_[:7])
        assert (again.pixels, again.levels) == (data.train.pixels, data.train.levels)
        if pixels == "binarize-once":
            rows = data.train.rows < 7
            assert torch.equal(again.values[data.train.rows[rows]], data.train.values[rows])
        scaled = torch.rand(4, 1, 8, 8)
        assert torch.equal(model.encode(scaled), model.encode(Examples.of(scaled)))


def test_levels_are_those_of_the_training():
    model = trained(vae((1, 8, 8)), "digits")
    digits = load_data("digits").test
    for raw in (digits.values, digits.values[:, 0].numpy()):
        assert model.examples(raw).levels == 17
        assert torch.equal(model.encode(raw), model.encode(digits))
    assert torch.equal(model.encode("digits"), model.encode(load_data("digits").all()))
    with pytest.raises(DataError, match=r"of 256 levels, but .* pixels of 17 levels"):
        model.encode(digits.values * 15)
    with pytest.raises(DataError, match="pixels of 256 levels"):
        model.encode([picture(8, 8)])


def test_binary_pixels_of_a_model_of_grey_ones():
    bits = RANDOM.random((9, 8, 8)) < 0.5
    grey = Preprocessing((1, 8, 8), levels=256)
    x = read_raw(bits, grey).batch(torch.arange(9))
    assert torch.equal(x[:, 0], torch.from_numpy(bits).float())


def test_counts_are_counts():
    counts = torch.randint(0, 9, (20, 4))
    made = load_data(counts, kind="counts").preprocessing
    assert read_raw(counts[:3], made).kind == "counts"
    assert read_raw(counts[:3].float(), made).kind == "counts"
    with pytest.raises(DataError, match="counts are whole numbers"):
        read_raw(counts[:3] + 0.5, made)
    codes = load_data(torch.arange(20).reshape(10, 2) % 5, kind="codes").preprocessing
    assert read_raw([[0, 1]], codes).levels == 5
    with pytest.raises(DataError, match="codes of 5 levels"):
        read_raw([[0, 5]], codes)


def test_missing_entries_are_missing():
    table = torch.rand(20, 4)
    table[3, 1] = torch.nan
    made = load_data(table, missing="nan").preprocessing
    assert made.missing == "nan"
    assert made.fields == {}
    assert not read_raw(table[3:5], made).fields["observed"][0, 1]


PICTURES = Preprocessing((3, 16, 16), levels=256)
TABLE = Preprocessing((6,))


@pytest.mark.parametrize(
    ("data", "kind", "error", "hint"),
    [
        (np.zeros((4, 5), np.float32), TABLE, ShapeError, r"shape \(5,\).*numbers of shape \(6,\)"),
        (np.zeros((4, 3, 9, 9), np.float32), PICTURES, ShapeError, "Only 8-bit pictures"),
        (np.zeros((4, 4, 9, 9), np.uint8), PICTURES, ShapeError, r"shape \(4, 9, 9\)"),
        (np.zeros((4, 768), np.uint8), PICTURES, ShapeError, r"shape \(768,\)"),
        (np.zeros((3, 16, 16), np.uint8), PICTURES, ShapeError, "looks like one picture"),
        (np.zeros((40, 30, 3), np.uint8), PICTURES, ShapeError, "looks like one picture"),
        (np.zeros((4, 6), np.uint8), TABLE, DataError, "256 levels, but .* real numbers"),
        ([Image.new("L", (6, 6))], TABLE, DataError, "not on pictures; give an array"),
        (["nowhere.png"], PICTURES, DataError, "nowhere.png: the picture cannot be read"),
        (["."], PICTURES, DataError, "a folder in a list of pictures"),
        ("nowhere", PICTURES, DataError, "is not a file, a folder"),
        ([Image.new("F", (9, 9), 5.0)], PICTURES, DataError, "picture 0: floating-point pixels"),
    ],
)
def test_what_cannot_be_made_to_fit_is_refused(data, kind, error, hint):
    with pytest.raises(error, match=hint):
        read_raw(data, kind)


def test_examples_pass_unchanged(model):
    for examples in (
        Examples.of(torch.rand(3, 7)),
        Examples(torch.zeros(3, 1, 9, 9, dtype=torch.uint8), levels=256),
    ):
        assert model.examples(examples) is examples


def test_a_model_without_it_goes_on_as_before(tmp_path):
    plain, bytes_ = vae((1, 8, 8)), torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    assert plain.preprocessing is None
    assert torch.equal(plain.examples(bytes_).values, bytes_)
    assert "preprocessing" not in header(lb.save(plain, tmp_path / "plain"))
    with pytest.raises(DataError, match="does not know how to read 'pictures'"):
        plain.encode("pictures")
    lb.fit(plain, lb.ELBO(), bytes_, **QUICK)
    assert plain.preprocessing is None


def test_a_file_has_it_and_a_training_replaces_it(model, tmp_path):
    path = lb.save(model, tmp_path / "model")
    assert header(path)["preprocessing"]["fields"]["names"] == ["label"]
    again = lb.load(path)
    assert again.preprocessing == model.preprocessing
    assert lb.load(path, conditional).preprocessing == model.preprocessing
    lb.fit(
        again, lb.ELBO(), Examples(torch.rand(9, 1, 16, 16), labels=torch.arange(9) % 3), **QUICK
    )
    assert again.preprocessing is None
    made = lb.load(path, again)
    assert made.preprocessing == model.preprocessing
    assert lb.load(lb.save(conditional(), path), made).preprocessing is None


def test_raw_data_train_a_model_further(model, seen, larger, tmp_path):
    again = lb.load(lb.save(model, tmp_path / "model"))
    pictures = [Image.open(file) for file in larger.glob("*/*.jpg")]
    plain = vae(posterior=again.posterior)
    plain.preprocessing = again.preprocessing
    lb.fit(plain, lb.ELBO(), seen, validation=pictures, **QUICK)
    assert plain.preprocessing == model.preprocessing
    lb.fit(again, lb.ELBO(), seen, validation=again.examples(larger), **QUICK)
    assert again.preprocessing == model.preprocessing


def test_a_checkpoint_has_it(seen, tmp_path):
    data = load_data(seen, image_size=16, color="grey")
    lb.fit(vae(), lb.ELBO(), data.train, directory=tmp_path / "run", validation=0.2, **QUICK)
    assert lb.load(tmp_path / "run").preprocessing == data.preprocessing
    for file in tmp_path.glob("run/checkpoints/*/model.safetensors"):
        assert header(file)["preprocessing"]["shape"] == [1, 16, 16]


def test_a_damaged_header_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr("lowerbound.runs.saving.describe", lambda value: describe(lb.ELBO()))
    path = lb.save(model, tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(StorageError, match="preprocessing"):
        lb.load(path, conditional)


def test_the_command_prepares_other_data_for_a_run_of_python(seen, larger, tmp_path):
    data = load_data(seen, image_size=16, color="grey")
    run = lb.fit(vae(), lb.ELBO(), data.train, directory=tmp_path / "run", **QUICK)
    out = tmp_path / "z.npy"
    for split, part in (("all", "all"), ("test", "test")):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(
                [
                    "encode",
                    str(tmp_path / "run"),
                    "--data",
                    str(larger),
                    "--split",
                    split,
                    "--out",
                    str(out),
                ]
            )
        other = load_data(larger, image_size=16, color="grey")
        examples = {"all": other.all(), "test": other.test}[part]
        assert np.array_equal(np.load(out), run.model.encode(examples).numpy())


def test_categories_of_other_examples_get_the_integers_of_the_training():
    torch.manual_seed(0)
    values, batches = torch.rand(40, 3), ["a", "b"] * 20
    data = lb.load_data(lb.Examples(values, fields={"batch": batches}))
    likelihood = lb.Given(lb.Gaussian(lb.mlp(4, 6)), "batch", categories=2)
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), likelihood)
    lb.fit(vae, lb.ELBO(), data.train, epochs=1, progress=False)
    alone = lb.Examples(values[1::2], fields={"batch": ["b"] * 20})
    assert alone.fields["batch"].eq(0).all()
    assert vae.examples(alone).fields["batch"].eq(1).all()
    same = lb.Examples(values[1::2], fields={"batch": torch.ones(20, dtype=torch.long)})
    assert lb.evaluate(vae, lb.ELBO(), alone).mean == lb.evaluate(vae, lb.ELBO(), same).mean
    with pytest.raises(DataError, match="category 'c'"):
        lb.evaluate(vae, lb.ELBO(), lb.Examples(values[:1], fields={"batch": ["c"]}))


def test_validation_examples_get_the_integers_of_the_training():
    torch.manual_seed(0)
    values = torch.rand(40, 3)
    train = lb.Examples(values, fields={"batch": ["a", "b"] * 20})
    validations = [
        lb.Examples(values[1::2], fields={"batch": ["b"] * 20}),
        lb.Examples(values[1::2], fields={"batch": torch.ones(20, dtype=torch.long)}),
    ]
    bounds = []
    for validation in validations:
        torch.manual_seed(1)
        likelihood = lb.Given(lb.Gaussian(lb.mlp(4, 6)), "batch", categories=2)
        vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), likelihood)
        run = lb.fit(vae, lb.ELBO(), train, epochs=1, validation=validation, progress=False)
        bounds.append(run.history[0]["validation"]["bound"])
    assert bounds[0] == bounds[1]
