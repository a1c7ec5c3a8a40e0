"""The named data sets, one record each. This module imports neither numpy nor torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowerbound.data.options import import_when_called

if TYPE_CHECKING:
    from lowerbound.data.dataset import Parts


@dataclass(frozen=True)
class NamedDataset:
    """A named data set: its description, the sources of its files, and its reader.

    To add one, write its reader in ``data/named.py`` and an entry of :data:`CATALOGUE`.

    Args:
        name: the name for :func:`~lowerbound.load_data` and ``--data``.
        description: one line for the list of data sets.
        shape: the shape of one example.
        train: the number of examples in the published training part, or of all examples if no parts
            were published.
        test: the number of examples in the published test part; 0 if the test part is random.
        files: alternative files, one of which must be in the folder ``$LOWERBOUND_DATA``; empty if
            no file is needed.
        licence: the terms under which its authors publish it.
        read: the function that makes examples from this record.
        homes: the addresses from which its files are downloaded, in order of preference. ``{}``
            stands for a file's name.
        digests: the SHA-256 digests with which the reader checks the files.
        label_names: the meanings of the labels, or ``None``.
        torchvision: the folder in which torchvision keeps the data set, or ``None``.
    """

    name: str
    description: str
    shape: tuple[int, ...]
    train: int
    test: int
    files: tuple[str, ...]
    licence: str
    read: Callable[[NamedDataset], Parts]
    homes: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    label_names: tuple[str, ...] | None = None
    torchvision: str | None = None


_IDX = "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz"
_READERS = "lowerbound.data.named"

CATALOGUE: dict[str, NamedDataset] = {
    entry.name: entry
    for entry in (
        NamedDataset(
            name="digits",
            description=(
                "1,797 handwritten digits of 17 grey levels (Alpaydin & Kaynak 1998), installed "
                "with scikit-learn; random test part"
            ),
            shape=(1, 8, 8),
            train=1797,
            test=0,
            files=(),
            licence="CC BY 4.0",
            read=import_when_called(_READERS, "read_digits"),
            label_names=tuple("0123456789"),
        ),
        NamedDataset(
            name="sprites",
            description=(
                "6,000 binary pictures of a square, an ellipse or a heart, drawn when they are "
                "loaded, whose factors shape, scale, orientation, position_x and position_y are "
                "fields, as in dSprites (Matthey et al. 2017); random test part"
            ),
            shape=(1, 64, 64),
            train=6000,
            test=0,
            files=(),
            licence="Apache 2.0",
            read=import_when_called(_READERS, "draw_sprites"),
        ),
        NamedDataset(
            name="mnist",
            description="70,000 handwritten digits, published test part (LeCun et al. 1998)",
            shape=(1, 28, 28),
            train=60_000,
            test=10_000,
            files=("mnist.npz (x_train, y_train, x_test, y_test)", f"mnist/{_IDX}"),
            licence="CC BY-SA 3.0",
            read=import_when_called(_READERS, "read_published_parts"),
            homes=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/{}",
                "https://storage.googleapis.com/cvdf-datasets/mnist/{}",
            ),
            # The digests of the decoded uint8 entries, which do not depend on the file format:
            # training images and labels, then test images and labels.
            digests=(
                "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
                "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
                "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
                "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
            ),
            label_names=tuple("0123456789"),
            torchvision="MNIST/raw",
        ),
        NamedDataset(
            name="fashion-mnist",
            description="70,000 pictures of clothes, published test part (Xiao et al. 2017)",
            shape=(1, 28, 28),
            train=60_000,
            test=10_000,
            files=("fashion-mnist.npz (x_train, y_train, x_test, y_test)", f"fashion-mnist/{_IDX}"),
            licence="MIT",
            read=import_when_called(_READERS, "read_published_parts"),
            homes=(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{}",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/"
                "data/fashion/{}",
            ),
            digests=(
                "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
                "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
                "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
                "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
            ),
            label_names=(
                *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
                *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
            ),
            torchvision="FashionMNIST/raw",
        ),
        NamedDataset(
            name="frey-faces",
            description=(
                "1,965 consecutive video frames of one face (Roweis); the random test part has "
                "neighbours of training frames"
            ),
            shape=(1, 28, 20),
            train=1965,
            test=0,
            files=("frey_faces.npz (x)", "frey_rawface.mat"),
            licence="not stated",
            read=import_when_called(_READERS, "read_frey_faces"),
            homes=("https://cs.nyu.edu/~roweis/data/frey_rawface.mat",),
            # The digest of the decoded uint8 entries.
            digests=("2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78",),
        ),
        NamedDataset(
            name="olivetti",
            description=(
                "400 faces, 10 pictures each of 40 people (AT&T Cambridge 1994); random test part, "
                "of people seen in training"
            ),
            shape=(1, 64, 64),
            train=400,
            test=0,
            files=(
                "orl_faces/s1 ... s40 (10 pictures each, resized to 64x64)",
                "olivettifaces.mat",
            ),
            licence="credit to AT&T Laboratories Cambridge",
            read=import_when_called(_READERS, "read_olivetti"),
            homes=(
                "https://ndownloader.figshare.com/files/5976027",
                "https://cs.nyu.edu/~roweis/data/olivettifaces.mat",
            ),
            # The digest of the file olivettifaces.mat. scikit-learn checks the same digest.
            digests=("b612fb967f2dc77c9c62d3e1266e0c73d5fca46a4b8906c18e454d41af987794",),
        ),
    )
}
"""The data sets by name, in the order in which they are listed."""
