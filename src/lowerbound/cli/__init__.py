"""The command ``lowerbound`` parses its arguments, calls the library, and prints the results.

Its exit code is 0 after success, 2 after a mistake that the user can correct, 130 after an
interrupt, 141 after the reader of its output ended first, and 1 after a bug in lowerbound.
"""

import sys

from lowerbound.cli.pipes import exit_when_closed
from lowerbound.runtime.interrupts import EXIT_CODE, StopSignals


def main(arguments: list[str] | None = None) -> None:
    """Run the command, and end the process with its exit code.

    A signal that asks the process to end is answered from here on, even while torch is imported.
    So this module imports nothing that takes time.

    Args:
        arguments: The words after the name of the command; by default, those of the process.
    """
    with (
        exit_when_closed() as is_closed,
        StopSignals.catch(ends_process=arguments is None) as signals,
    ):
        try:
            from lowerbound.cli.application import run

            code = run(sys.argv[1:] if arguments is None else arguments, signals)
        except KeyboardInterrupt:
            code = EXIT_CODE
        if (signals.requested or code == EXIT_CODE) and not is_closed():
            if signals.ends_process:
                signals.end_process()
            signals.print_explanation()
            code = EXIT_CODE
        sys.exit(code)
