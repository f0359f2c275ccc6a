# demo, test and bench work in a fresh clone: they first make .venv from a plain Python 3.11 or newer.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# 3.11 first: constraints.txt was made with it. A candidate counts if it starts and can make environments.
FIND_PYTHON = for name in $(PYTHON) python3.11 python3 python3.12 python3.13 python3.14 python; do \
	"$$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$name"; break; }; \
	done

.PHONY: help setup demo test faults soak fuzz lint types rings bench bench-full lock clean

help:  ## say what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv with the pinned packages and batpak itself

$(READY): constraints.txt pyproject.toml
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then echo "no Python 3.11 or newer with venv found; name one: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	"$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## load eight public histories into a journal and ask it questions
	$(BIN)/python examples/demo.py --journal build/demo-journal

test: lint types rings  ## every check, then every test
	$(BIN)/python -m pytest -q --ignore=tests/faults
	$(BIN)/python -m pytest -q -n 2 tests/faults

faults: $(READY)  ## the table of faults, ordinary size
	$(BIN)/python -m pytest -q -n 2 tests/faults

soak: $(READY)  ## the table of faults, ten times as much, with new dice
	BATPAK_FAULTS=$${BATPAK_FAULTS:-10} BATPAK_SEED=$${BATPAK_SEED:-new} BATPAK_LONG=1 $(BIN)/python -m pytest -q -n 2 tests/faults

fuzz: $(READY)  ## feed the decoders, guided by what their code does where atheris can be had
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris || true
	$(BIN)/python -m tests.faults.fuzz

lint: $(READY)  ## ruff: format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: lint  ## mypy, strict
	$(BIN)/mypy

rings: types  ## import-linter
	$(BIN)/lint-imports --no-logo

bench: $(READY)  ## batpak beside its rivals: floors and goals, every figure, some minutes
	$(BIN)/python -m benchmarks

bench-full: $(READY)  ## the same in more rounds, on stores of up to a million events
	$(BIN)/python -m benchmarks --full

lock:  ## make constraints.txt anew from what pyproject.toml allows
	python=$$($(FIND_PYTHON)); rm -rf build/lock; "$$python" -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet --group dev .
	build/lock/bin/python -m pip freeze --quiet --exclude batpak > build/lock/frozen
	{ sed '/^[^#]/,$$d' constraints.txt; cat build/lock/frozen; } > build/lock/constraints.txt
	mv build/lock/constraints.txt constraints.txt

clean:  ## remove what was made
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
