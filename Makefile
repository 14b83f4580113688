# `make demo` and `make test` start from nothing: they create the environment that they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test bench figures samples clean

help:
	@echo "make demo     install, then show which blocks of two samples are kept (pictures in overlays/)"
	@echo "make test     install with test dependencies, then format check, lint, types and tests"
	@echo "make bench    time the selection on this machine, against torch code too (installs as make test does)"
	@echo "make figures  make the picture and the tables of the README and of docs/benchmark.md anew"
	@echo "make samples  draw the sample images anew (needs Chromium)"
	@echo "make clean    remove the environment and all caches"

demo: $(VENV)/installed
	$(BIN)/pixelprune show src/pixelprune/samples

test: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q

bench: $(VENV)/installed-test
	$(BIN)/pixelprune bench select

figures: $(VENV)/installed-test
	$(BIN)/python scripts/make_figures.py

samples: $(VENV)/installed
	$(BIN)/python scripts/make_samples.py

clean:
	rm -rf $(VENV) overlays build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --editable '.[pdf]'
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --editable '.[pdf,test]'
	@touch $@ $(VENV)/installed
