"""The command line of a program whose arguments choose some of its parts."""

import argparse
import sys
from collections.abc import Iterable


def choose_parts(program: str, names: Iterable[str]) -> list[str]:
    """Return the parts that the user named, or all of them in their order.

    ``--help`` prints the program's docstring and the names. An unknown name ends the program with
    exit code 2.
    """
    known = list(names)
    parser = argparse.ArgumentParser(
        description=sys.modules[program].__doc__,
        epilog=f"The names are {', '.join(known)}. Without any, all are done.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    chosen: list[str] = parser.parse_args().names
    for name in chosen:
        if name not in known:
            parser.error(f"{name!r} is unknown; the names are {', '.join(known)}")
    return chosen or known
