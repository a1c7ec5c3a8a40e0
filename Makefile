# The commands of the project. Each one first sets up what it needs: a virtual environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARALLEL := --numprocesses 2 --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# If it were set, every process would compile the sources and tests again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo check test lint types tests quick-tests docs tutorial format benchmark identical reference clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       install, train the notebook's model on handwritten digits, draw pictures (two minutes)"
	@echo "make check      lint, check types, run the tests that train nothing (a minute and a half)"
	@echo "make test       install the tools, then lint, check types, run all tests and build the documentation"
	@echo "make docs       build the documentation into build/docs, and check its links"
	@echo "make tutorial   execute the notebooks of the tutorial, and write their outputs into them (ten minutes)"
	@echo "make benchmark  compare speed with other libraries, in a virtual environment of its own (half an hour)"
	@echo "make identical  compare seeded runs with those of an earlier commit, bit for bit (three minutes)"
	@echo "make reference  draw the reference posteriors with NumPyro, in a virtual environment of its own"
	@echo "make format     format the code"
	@echo "make clean      remove the virtual environment and the caches"

demo: $(VENV)/.installed
	@rm -rf runs/demo
	@$(BIN)/lowerbound train aevb-gaussian --data digits --epochs 40 --pictures-every 10 --out runs/demo

check: lint
	@$(MAKE) --no-print-directory --jobs 2 types quick-tests

quick-tests: $(VENV)/.installed-tools
	@$(BIN)/pytest $(PARALLEL) --without-training

test: lint types tests docs

lint: $(VENV)/.installed-tools
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.installed-tools
	@$(BIN)/mypy

tests: $(VENV)/.installed-tools
	@$(BIN)/pytest $(PARALLEL)

docs: $(VENV)/.installed-docs
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs build/docs
	@echo "build/docs/index.html: open it in a browser, or serve it: $(BIN)/python -m http.server --directory build/docs"

tutorial: $(VENV)/.installed-tools
	@$(BIN)/python docs/tutorial/execute.py

format: $(VENV)/.installed-tools
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

benchmark: .venv-benchmark/.installed
	@.venv-benchmark/bin/python benchmarks/run.py

identical: $(VENV)/.installed
	@$(BIN)/python benchmarks/identity.py

.venv-benchmark/.installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	@$(PYTHON) -m venv .venv-benchmark
	@.venv-benchmark/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
		--editable . --requirement benchmarks/requirements.txt
	@touch $@

# A committed reference is not drawn again: first remove docs/results/posteriors/reference/NAME.json.
reference: .venv-mcmc/.installed
	@.venv-mcmc/bin/python reproductions/reference_draws.py

.venv-mcmc/.installed: reproductions/requirements-mcmc.txt
	@$(PYTHON) -m venv .venv-mcmc
	@.venv-mcmc/bin/python -m pip --disable-pip-version-check install --quiet --requirement reproductions/requirements-mcmc.txt
	@touch $@

clean:
	rm -rf $(VENV) .venv-benchmark .venv-mcmc .venv-scvi .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lowerbound needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "this Python cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing lowerbound into $(VENV) (torch is large: this can take a few minutes)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-tools: $(VENV)/.installed
	@echo "installing the tools"
	@$(PIP) --editable ".[dev]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "installing the documentation tools"
	@$(PIP) --editable ".[docs]"
	@touch $@
