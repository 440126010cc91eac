# Every target does its own set-up: `make up` on a fresh machine makes the environment, fetches the model, and serves.
#
#   make up ARGS="--workers 2"        arguments for sagellm
#   make up PYTHON=python3.12         the Python that makes the environment (3.11 or newer)
#   make up PIP_ARGS="…"              arguments for `pip install`; see "A smaller torch" in CONTRIBUTING.md

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CODE := schemas engine services tests examples ops
EXISTING_CODE = $(wildcard $(CODE))

.DEFAULT_GOAL := help
.PHONY: help up demo bench test check format clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(READY) ## Serve a model, ask it a first question, and stay up.
	@$(BIN)/sagellm up $(ARGS)

demo: $(READY) ## Show requests of every priority at once, then leave.
	@$(BIN)/sagellm demo $(ARGS)

bench: $(READY) ## Measure the engine alone; `sagellm bench serve` measures a server.
	$(BIN)/sagellm bench engine $(ARGS)

test: $(READY) ## Run all tests that need no GPU and no vLLM.
	$(BIN)/pytest -m "not gpu and not vllm" $(PYTEST_ARGS)

check: $(READY) ## Check format, lint, types, and who imports whom.
	$(BIN)/ruff format --check $(EXISTING_CODE)
	$(BIN)/ruff check $(EXISTING_CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format, and mend what the linter can mend.
	$(BIN)/ruff format $(EXISTING_CODE)
	$(BIN)/ruff check --fix $(EXISTING_CODE)

clean: ## Delete the environment and all caches. Models and the queue stay.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than pyproject.toml as long as what is installed is what is asked for.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sageLLM needs Python 3.11 or newer; give one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): some minutes the first time"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) --editable '.[dev]'
	@touch $@
