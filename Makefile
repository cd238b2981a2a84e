# No other set-up is needed: each target creates .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run on all cores, with one thread per process; more threads than cores can make a step hundreds of times slower.
WORKERS ?= auto

# Tests that take long, need a browser, or start a Slurm cluster.
LONG := slow or browser or slurm

.PHONY: demo test slow lint types validate pictures bench clean

demo: $(VENV)/.demo
	$(BIN)/python -m experiments.demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q -m "not ($(LONG))"

slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q -m "$(LONG)"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

validate: $(VENV)/.demo
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.validate

pictures: $(VENV)/.demo
	$(BIN)/python -m experiments.regimes

bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks.probes
	$(BIN)/python -m benchmarks.depth
	$(BIN)/python -m benchmarks.theory
	$(BIN)/python -m benchmarks.collecting
	$(BIN)/python -m benchmarks.sweep --quick

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
