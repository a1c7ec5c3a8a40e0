"""The data sets that have a name: what they are, and which files hold them. Light: imports neither numpy nor torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NamedDataset:
    """What there is to know about a named data set before reading it.

    Args:
        name: what :func:`~lowerbound.data.load_data` and ``--data`` call it.
        description: one line for a listing.
        shape: the shape of one example.
        train: how many examples the published training part has, or all of them where no parts were published.
        test: how many examples the published test part has; 0 where the test part is drawn at random.
        files: what to put into the folder ``$LOWERBOUND_DATA``, any one of these; empty if nothing is needed.
    """

    name: str
    description: str
    shape: tuple[int, ...]
    train: int
    test: int
    files: tuple[str, ...]


_IDX = "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz"

CATALOGUE: dict[str, NamedDataset] = {
    entry.name: entry
    for entry in (
        NamedDataset(
            name="digits",
            description="1,797 handwritten digits of 17 grey levels, comes with scikit-learn; random test part",
            shape=(1, 8, 8),
            train=1797,
            test=0,
            files=(),
        ),
        NamedDataset(
            name="mnist",
            description="70,000 handwritten digits with their published test part (LeCun et al. 1998)",
            shape=(1, 28, 28),
            train=60_000,
            test=10_000,
            files=("mnist.npz (x_train, y_train, x_test, y_test)", f"mnist/{_IDX}"),
        ),
        NamedDataset(
            name="fashion-mnist",
            description="70,000 pictures of clothes with their published test part (Xiao et al. 2017)",
            shape=(1, 28, 28),
            train=60_000,
            test=10_000,
            files=("fashion-mnist.npz (x_train, y_train, x_test, y_test)", f"fashion-mnist/{_IDX}"),
        ),
        NamedDataset(
            name="frey-faces",
            description=(
                "1,965 consecutive video frames of one face (Roweis); the random test part holds neighbours "
                "of training frames"
            ),
            shape=(1, 28, 20),
            train=1965,
            test=0,
            files=("frey_faces.npz (x)", "frey_rawface.mat"),
        ),
        NamedDataset(
            name="olivetti",
            description=(
                "400 faces, 10 pictures each of 40 people (AT&T Cambridge 1994); random test part, of people "
                "seen in training"
            ),
            shape=(1, 64, 64),
            train=400,
            test=0,
            files=(
                "orl_faces/s1 ... s40 (10 pictures each, resized to 64x64)",
                "olivettifaces.mat",
            ),
        ),
    )
}
"""The named data sets by name, in the order of a listing."""
