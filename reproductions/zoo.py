"""The recipes on binarised MNIST beside each other and beside pythae, and on drawn sprites.

    python reproductions/zoo.py [--epochs N] [--only CELL ...] [--report]

Every cell is trained and evaluated with three seeds, each in a process of its own. Cells whose
results are there already are skipped, and a training of lowerbound that was stopped resumes from
its state in runs/zoo/. Results go to docs/results/zoo/CELL-epochsN-seedS.json. In the end, and with
--report at once, docs/results/zoo.md is written from all of them; what was not run is not on it. A
cell that fails is reported, and the others go on. The cells of pythae need an environment that has
it, which `make benchmark` creates.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from zoo_cells import CELLS, RUNS
from zoo_page import SEEDS, write_page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "zoo"
SMALL = RUNS / "small" / "zoo"
PYTHAE = ROOT / ".venv-benchmark" / "bin" / "python"


def list_jobs(asked: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """The cells with their numbers of epochs and seeds: all of one seed before the next."""
    epochs = {"mnist": asked.epochs, "sprites": asked.sprites_epochs}
    for seed in asked.seeds:
        for name, cell in CELLS.items():
            if name in asked.only:
                yield name, epochs[cell.data], seed


def choose_interpreter(name: str, pythae: Path) -> str:
    """The interpreter whose environment has what a cell needs."""
    if CELLS[name].library == "pythae":
        return str(pythae)
    return sys.executable


def run(name: str, epochs: int, seed: int, asked: argparse.Namespace, folder: Path) -> str | None:
    """Run one cell in a process of its own, unless its results exist already.

    Returns:
        What went wrong, if anything did.
    """
    target = folder / f"{name}-epochs{epochs}-seed{seed}.json"
    if target.exists():
        print(f"{target} exists already", file=sys.stderr)
        return None
    command = [
        choose_interpreter(name, asked.pythae),
        str(Path(__file__).with_name("zoo_cells.py")),
    ]
    if not Path(command[0]).exists():
        return f"{name}, seed {seed}: {command[0]} does not exist; run `make benchmark` first"
    command += [name, f"--seed={seed}", f"--epochs={epochs}", f"--target={target}"]
    if asked.small:
        command.append("--small")
    paths = [str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",  # so that processor times compare, and several cells can run
        "TQDM_DISABLE": "1",  # pythae's progress bars
    }
    print(f"{name}: {epochs} epochs, seed {seed}", file=sys.stderr, flush=True)
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        return f"{name}, seed {seed}: ended with exit code {code}"
    return None


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20, help="of MNIST; %(default)s by default")
    parser.add_argument(
        "--sprites-epochs", type=int, default=8, help="of the sprites; %(default)s by default"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument(
        "--only", nargs="+", choices=CELLS, default=[*CELLS], metavar="CELL", help=", ".join(CELLS)
    )
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument(
        "--pythae", type=Path, default=PYTHAE, help="the interpreter that has pythae; %(default)s"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="one epoch of a few hundred examples, to try the program; results go to runs/zoo/",
    )
    asked = parser.parse_args()
    if asked.small:
        asked.epochs = asked.sprites_epochs = 1
    return asked


def main() -> int:
    """Run what was asked for, and write the page."""
    asked, folder = read_arguments(), RESULTS
    if asked.small:
        folder = SMALL
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    if not asked.report:
        for name, epochs, seed in list_jobs(asked):
            problem = run(name, epochs, seed, asked, folder)
            if problem:
                problems.append(problem)
                print(problem, file=sys.stderr, flush=True)
    page = write_page(folder)
    print(page or "There are no results, so no page was written.", file=sys.stderr)
    if problems:
        print("\n".join(["Not everything was run:", *problems]), file=sys.stderr)
    return min(1, len(problems))


if __name__ == "__main__":
    raise SystemExit(main())
