"""The scripts and tables of mutations are not tests; ``tests/test_mutations.py`` checks them."""

collect_ignore_glob = ["*.py"]
