# `make demo` and `make test` start from nothing: they create the environment that they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test test-vllm bench figures accuracy tiny-model samples clean

help:
	@echo "make demo       install, then show which blocks of two samples are kept (pictures in overlays/)"
	@echo "make test       install with test dependencies, then format check, lint, types and tests"
	@echo "make test-vllm  make an environment with vLLM for CPUs, and test plugin and adapter in it (transformers 5.19)"
	@echo "make bench      time selection, image processor, prefill and training on this machine (minutes)"
	@echo "make figures    make the picture and the tables of the README and of docs/ anew"
	@echo "make tiny-model train the small model of tiny_model/ from scratch (10 minutes on one CPU)"
	@echo "make accuracy   measure what pruning does to its accuracy, and make the tables anew (6 minutes)"
	@echo "make samples    draw the sample images anew (needs Chromium)"
	@echo "make clean      remove the environments and all caches"

demo: $(VENV)/installed
	$(BIN)/pixelprune show src/pixelprune/samples

test: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2

test-vllm: $(VENV)-vllm/installed
	$(VENV)-vllm/bin/python -m pytest -q -n 2 tests/test_plan.py tests/test_transformers
	$(VENV)-vllm/bin/python -m pytest -q -n 2 tests/test_vllm src/pixelprune/vllm

bench: $(VENV)/installed-test
	$(BIN)/pixelprune bench select
	$(BIN)/pixelprune bench processor
	$(BIN)/pixelprune bench prefill
	$(BIN)/pixelprune bench train

figures: $(VENV)/installed-test
	$(BIN)/python scripts/make_figures.py

tiny-model: $(VENV)/installed-test
	$(BIN)/python -m tiny_model.pretrain --out tiny_model/checkpoint

accuracy: $(VENV)/installed-test
	$(BIN)/python scripts/make_figures.py accuracy padding

samples: $(VENV)/installed
	$(BIN)/python scripts/make_samples.py

clean:
	rm -rf $(VENV) $(VENV)-vllm overlays build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --editable '.[pdf]'
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --editable '.[pdf,test]'
	@touch $@ $(VENV)/installed

$(VENV)-vllm/installed: pyproject.toml scripts/vllm_env.sh
	rm -rf $(VENV)-vllm
	PYTHON=$(PYTHON) scripts/vllm_env.sh $(VENV)-vllm
	@touch $@
