# Every target starts from nothing: it creates the environment that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# What runs with each version of vLLM.
ENGINES := $(patsubst %,tests/vllm/test_%.py,conformance more_architectures)
PLUGIN := $(patsubst %,tests/vllm/test_%.py,contract guard options plugin positions seams surface versions) src/pixelprune/vllm \
	tests/vllm/test_check.py::test_all_is_well 'tests/vllm/test_start.py::test_start_is_refused_with_a_reason[misspelt]'

.PHONY: help demo check test-core test test-vllm docs bench figures accuracy tiny-model samples clean

help:
	@echo "make demo       install, then show which blocks of two samples are kept (pictures in overlays/)"
	@echo "make test-core  test selection, images and commands, without torch (under a minute)"
	@echo "make check      format, lint, types, and the order of layers"
	@echo "make test       make check, then all tests but those that need vLLM"
	@echo "make test-vllm  create an environment with vLLM for CPUs, and test the plugin and the adapter in it;"
	@echo "                test-vllm-0.31 and test-vllm-0.33 are the parts of it that run with these versions"
	@echo "make docs       build the documentation site in site/"
	@echo "make bench      time selection, image processor, prefill and training on this machine (minutes)"
	@echo "make figures    make the picture and the tables of README.md and docs/"
	@echo "make tiny-model train the small model of tiny_model/ from scratch (10 minutes on one CPU)"
	@echo "make accuracy   measure how pruning changes its accuracy, and make those tables (10 minutes)"
	@echo "make samples    draw the sample images (needs Chromium)"
	@echo "make clean      remove the environments and all caches"

demo: $(VENV)/installed
	$(BIN)/pixelprune show src/pixelprune/images/samples/*.png

test-core: $(VENV)/installed-core
	$(BIN)/pytest -q -n 2 tests/selection tests/images tests/stats tests/cli $(patsubst %,src/pixelprune/%,selection images stats)

check: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -q -n 2

test-vllm: $(VENV)-vllm/installed
	$(VENV)-vllm/bin/python -m pytest -q -n 2 tests/plan tests/transformers
	$(VENV)-vllm/bin/python -m pytest -q -n 2 tests/vllm src/pixelprune/vllm
	$(MAKE) test-vllm-0.31 test-vllm-0.33

# With another version: engines of each architecture, then the plugin itself.
test-vllm-%: $(VENV)-vllm/installed
	ENGINES_VLLM=$* $(VENV)-vllm/bin/python -m pytest -q -n 2 $(ENGINES)
	scripts/vllm_with.sh $(VENV)-vllm $* $(VENV)-vllm/bin/python -m pytest -q -n 2 $(PLUGIN)

# The variable turns off an announcement of mkdocs-material.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

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
	$(BIN)/python scripts/make_figures.py accuracy restored padding

samples: $(VENV)/installed
	$(BIN)/python scripts/make_samples.py

clean:
	rm -rf $(VENV) $(VENV)-vllm overlays build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# Dependency groups need pip 25.1.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'pip>=25.1'

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[pdf]'
	@touch $@

$(VENV)/installed-core: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[heif,pdf]' --group core
	@touch $@ $(VENV)/installed

# The site is made from the source alone; nothing of the package is imported.
$(VENV)/installed-docs: pyproject.toml | $(BIN)/python
	$(PIP) install --group docs
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[heif,pdf,training]' --group core --group check --group peer --group docs
	@touch $@ $(VENV)/installed $(VENV)/installed-core $(VENV)/installed-docs

$(VENV)-vllm/installed: pyproject.toml scripts/vllm_env.sh
	rm -rf $(VENV)-vllm
	PYTHON=$(PYTHON) scripts/vllm_env.sh $(VENV)-vllm
	@touch $@
