# Everything happens in a virtual environment of its own, $(VENV); nothing is installed
# elsewhere. `make help` lists the targets.

# The Python to make the environment with, 3.11 or newer.
PYTHON ?= python3
# The environment's folder.
VENV ?= .venv
# What to ask pip for in place of torch, for example TORCH=torch for the newest one.
TORCH ?= torch==2.13.0
# What to install: this checkout, or a wheel (PACKAGE=dist/NAME.whl).
PACKAGE ?= --editable .
# Where the demo writes.
DEMO_OUTPUT ?= build/demo
# How the tests are spread over the cores; empty: one after another.
PYTEST_PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile
# More arguments for pytest, for example PYTEST_ARGS="-m slow".
PYTEST_ARGS ?=
# More arguments for the benchmark, for example BENCHMARK_ARGS="--events 3000".
BENCHMARK_ARGS ?=

BIN := $(VENV)/bin
CONSTRAINTS := $(VENV)/constraints.txt

.PHONY: help demo test benchmark lint format docs wheel clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# pip must not run twice at the same time in one environment
.NOTPARALLEL:
# keep the stamps that the pattern rule below makes
.SECONDARY:

help:  ## list the targets
	@echo "Targets:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | \
		awk -F '|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo "Settings, with their values now:"
	@echo "  PYTHON=$(PYTHON)  VENV=$(VENV)  TORCH='$(TORCH)'"
	@echo "(after a change of PYTHON or TORCH: make clean)"

demo: $(VENV)/.with-report,simtel  ## reconstruct the sample events, make a table and a figure
	$(BIN)/python examples/demo.py --output $(DEMO_OUTPUT)

test: $(VENV)/.with-test  ## run the tests
	$(BIN)/python -m pytest $(PYTEST_PARALLEL) $(PYTEST_ARGS)

benchmark: $(VENV)/.with-train,benchmark  ## measure speed against the peers, in build/benchmark.ecsv
	$(BIN)/python benchmarks/speed.py $(BENCHMARK_ARGS)

lint: $(VENV)/.with-dev  ## check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.with-dev  ## correct the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.with-docs  ## build the documentation, in docs/_build/html
	rm -rf docs/api docs/_build
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

wheel: $(VENV)/.with-dev  ## build the source archive and the wheel, in dist
	rm -rf dist
	$(BIN)/python -m build

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) build dist docs/_build docs/api *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, in three steps. A stamp tells that a step is done.

# 1. Python
$(VENV)/.python:
	@command -v "$(PYTHON)" > /dev/null || { \
		echo "error: there is no '$(PYTHON)'; name a Python 3.11 or newer:" \
			"make PYTHON=python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: '$(PYTHON)' is `$(PYTHON) --version 2>&1`, ctapipe_gphysnet needs" \
			"3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

# 2. torch, before anything else, and from then on held where it is. IndexedConv asks for
# torchvision, and left alone pip would replace torch by the newest CUDA build (several
# GB) to satisfy torchvision.
$(VENV)/.torch: | $(VENV)/.python
	$(BIN)/python -m pip install "$(TORCH)"
	$(BIN)/python -c 'from importlib.metadata import version; \
		print("torch==" + version("torch"))' > $(CONSTRAINTS)
	@touch $@

# 3. the package with the extras in the stamp's name. Then torchvision goes: IndexedConv
# never imports it, the builds on PyPI are for CUDA, and beside a CPU build of torch they
# break `import torchmetrics` and `import lightning` ("operator torchvision::nms does not
# exist").
$(VENV)/.with-%: setup.cfg pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) $(PACKAGE)[$*]
	$(BIN)/python -m pip uninstall --yes torchvision
	@touch $@
