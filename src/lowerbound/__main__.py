"""``python -m lowerbound`` is the command ``lowerbound``."""

from lowerbound.cli import main

if __name__ == "__main__":
    main()
