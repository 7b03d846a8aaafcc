# `make demo` and `make test` are all a newcomer needs: each makes its own virtual environment first.
# Set-up is repeated only when pyproject.toml has changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# One thread per test worker: two workers that each start a thread per core are slower than one.
TEST_ENV := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false \
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
TEST_WORKERS ?= 2
PYTEST_ARGS ?=
SUITE_ARGS ?=
DEMO_ARGS ?=

.PHONY: help demo test quality style build wheel-check hf-suite clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-12s %s\n", $$1, $$2 }'

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install --editable ".[dev]"
	@touch $@

demo: $(INSTALLED) ## train, save, reload and question a tiny model on synthetic rooms
	$(BIN)/geovr demo --out runs/demo --overwrite $(DEMO_ARGS)

test: $(INSTALLED) ## run the tests (PYTEST_ARGS="-k name" to choose)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(TEST_WORKERS) $(PYTEST_ARGS)

quality: $(INSTALLED) ## check lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(INSTALLED) ## repair lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A stale build/ would ship modules that have since been deleted.
build: $(INSTALLED) ## build the wheel and the sdist into dist/
	rm -rf build dist
	$(BIN)/python -m build

wheel-check: $(INSTALLED) ## install the wheel, and an editable copy, in new environments and import from elsewhere
	$(BIN)/python tests/check_wheel.py

hf-suite: $(INSTALLED) ## run transformers' own suites on GeoVR and on plain Qwen3-VL, and compare
	$(TEST_ENV) $(BIN)/python tests/hf_suite/run.py --workers $(TEST_WORKERS) $(SUITE_ARGS)

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
