# `make help` lists the targets. All work from any folder: `make -C path/to/fisao-pipeline test`.

# The first of these that is Python 3.11 or 3.12; another one: `make setup PYTHON=/path/to/python`.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
    $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$python && break; \
    done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
KEDRO := $(BIN)/kedro
CONSTRAINTS := .ci/constraints.txt
# Exactly one torch, installed before all else: pip resolving a range may fetch CUDA packages that are then replaced.
TORCH := $(shell grep '^torch==' $(CONSTRAINTS))

# pip compiles what it installs on one core; the second command does it on all. What cannot be compiled is no module. For
# benchmarks alone, which import a part of it and warm up before they count, that would take longer than it spares.
INSTALL := $(PIP) install --quiet --no-compile --constraint $(CONSTRAINTS)
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true

# Stamps, so that nothing is installed again before pyproject.toml or the constraints change. A larger set of packages is
# installed at once, and counts as the smaller ones, too.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_MUTATION := $(VENV)/.installed-mutation
INSTALLED_BENCH := $(VENV)/.installed-bench
# lmms-eval's dependencies clash with ours, so it has an environment of its own.
LMMS_VENV := .venv-lmms
LMMS_REQUIREMENTS := .ci/lmms-requirements.txt
INSTALLED_LMMS := $(LMMS_VENV)/.installed
# The last file that rendering the pocket pictures writes.
SCENES := data/01_raw/pocket_scenes/prompts.jsonl

# No usage statistics to anybody, from any library.
export DO_NOT_TRACK ?= true

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-dev scenes run test test-slow test-gpu lint mutation bench bench-gpu seeds ablation ablation-docs viz viz-site mlflow \
    lmms-env constraints clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

define NEW_VENV
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) $(TORCH)
endef

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(NEW_VENV)
	$(INSTALL) --editable .
	@$(COMPILE)
	@touch $@

$(INSTALLED_DEV): pyproject.toml $(CONSTRAINTS)
	$(NEW_VENV)
	$(INSTALL) --editable '.[dev]'
	@$(COMPILE)
	@touch $(INSTALLED) $@

$(INSTALLED_MUTATION): pyproject.toml $(CONSTRAINTS)
	$(NEW_VENV)
	$(INSTALL) --editable '.[dev,mutation]'
	@$(COMPILE)
	@touch $(INSTALLED) $(INSTALLED_DEV) $@

$(INSTALLED_BENCH): pyproject.toml $(CONSTRAINTS)
	$(NEW_VENV)
	$(INSTALL) --editable '.[bench]'
	@touch $(INSTALLED) $@

# The registry's torchvision is built for CUDA; beside the CPU build of torch it cannot be imported, and what asks whether
# it is there fails. Images are then read without it.
$(INSTALLED_LMMS): $(LMMS_REQUIREMENTS)
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found: make lmms-env PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(LMMS_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(LMMS_VENV)
	$(LMMS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet $$(grep '^torch==' $(LMMS_REQUIREMENTS))
	$(LMMS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --requirement $(LMMS_REQUIREMENTS)
	@$(LMMS_VENV)/bin/python -c 'import torchvision' 2>/dev/null || \
	    $(LMMS_VENV)/bin/python -m pip uninstall --quiet --yes torchvision
	$(LMMS_VENV)/bin/python -c 'import lmms_eval.evaluator'
	@touch $@

$(SCENES): | $(INSTALLED)
	$(KEDRO) run --pipelines=pocket_world --tags=scenes

setup: $(INSTALLED) ## Make .venv and install the project with pinned dependencies

setup-dev: $(INSTALLED_DEV) ## The same, with what tests and lint need

scenes: $(SCENES) ## Render the pocket pictures, once

run: setup scenes ## Train on the pocket models, evaluate, print base against aligned
	$(KEDRO) run --pipelines=train
	$(KEDRO) run --pipelines=benchmark_evaluation
	@$(BIN)/python -m fisao_pipeline show

# A process a core, each with one thread; the tests of a file stay together, as they share what is slow to make.
test: setup-dev scenes ## Run the default tests
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

test-slow: setup-dev scenes ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: setup-dev scenes ## Run the tests that need a CUDA device
	CUBLAS_WORKSPACE_CONFIG=:4096:8 $(BIN)/python -m pytest -m gpu

lint: setup-dev ## Check style, types and the direction of imports
	$(BIN)/ruff check src tests notebooks
	$(BIN)/ruff format --check src tests notebooks
	$(BIN)/mypy
	$(BIN)/lint-imports

mutation: $(INSTALLED_MUTATION) ## Break every function of method/ in turn and count what its tests notice
	rm -rf mutants
	$(BIN)/mutmut run --max-children 1
	@$(BIN)/python .ci/mutation_table.py

# Where a test fails (1) the table has what the others measured; an interrupted run (more than 1) leaves it as it is.
bench: $(INSTALLED_BENCH) scenes ## Time us against TRL, plain ways and floors, and write the table into docs/
	@mkdir -p build && rm -f build/bench.json
	$(BIN)/python -m pytest -m bench tests/bench --benchmark-json=build/bench.json --benchmark-columns=median,iqr,rounds; \
	    status=$$?; \
	    test $$status -gt 1 || $(BIN)/python -m tests.bench.table build/bench.json || exit; \
	    exit $$status

bench-gpu: setup-dev ## Measure LLaVA-1.5-7B's size on this GPU against our targets, in build/gpu.md and build/gpu.json
	PYTORCH_ALLOC_CONF=expandable_segments:True $(BIN)/python -m tests.gpu.throughput --config target --output build/gpu.md

seeds: setup scenes ## Run the whole method once per seed and print the means
	$(KEDRO) run --pipelines=image_ingestion,seed_study

ablation: setup scenes ## Run the whole method once per arm and seed and print the arms side by side
	$(KEDRO) run --pipelines=image_ingestion,ablation

ablation-docs: setup ## Copy the last ablation's table and images into docs/
	$(BIN)/python -m fisao_pipeline study-docs

viz: setup ## Open the pipelines and their artifacts in Kedro-Viz
	$(KEDRO) viz run

viz-site: setup ## Write the same into build/kedro-viz as plain files, for any web server
	$(BIN)/python -m fisao_pipeline viz-site

# kedro-mlflow starts `mlflow` by its name.
mlflow: setup ## Open the recorded runs in MLflow
	PATH="$(CURDIR)/$(BIN):$$PATH" $(KEDRO) mlflow ui

lmms-env: $(INSTALLED_LMMS) ## Make .venv-lmms, in which `kedro run --pipelines=lmms_eval` runs lmms-eval (2.5 GB)

constraints: ## Write .ci/constraints.txt anew from the ranges in pyproject.toml
	.ci/refresh_constraints "$(PYTHON)"

clean: ## Remove .venv, .venv-lmms and caches; data/ is left alone
	rm -rf $(VENV) $(LMMS_VENV) mutants .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .viz build src/*.egg-info
	find src tests notebooks -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +
