"""The command line of a program whose arguments are words in a fixed order."""

import argparse
import sys


def read_arguments(program: str, *names: str, more: str | None = None) -> list[str]:
    """Read one word for each name, and any number of further words if ``more`` names them.

    ``--help`` prints the program's docstring. Too few or too many words end the program with exit
    code 2.
    """
    parser = argparse.ArgumentParser(
        description=sys.modules[program].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in names:
        parser.add_argument(name, metavar=name.upper())
    if more is not None:
        parser.add_argument("more", nargs="*", metavar=more.upper())
    given = vars(parser.parse_args())
    return [given[name] for name in names] + given.get("more", [])
