# `make help` lists the targets. Each one builds the virtual environment it needs first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help serve test lint format coverage bench chaos soak fuzz guards lock vendor clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## run the chat on http://127.0.0.1:8000 with everything it needs
	@exec $(BIN)/mcp-chat serve

# Side by side, and then what wants the machine for itself; 5 is pytest's word for "nothing of this kind".
# At home four at a time on any machine: what is left there waits more than it works.
PROCESSES := $(if $(CI),auto,4)
test: $(VENV)/.dev ## run the tests (CI=1 adds the slow tier: browser, npm, PostgreSQL, processes, patience)
	@failed=0; \
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --maxprocesses 4 --dist loadfile -m "not alone" $(ARGS) || [ $$? = 5 ] || failed=1; \
	$(BIN)/python -m pytest -m alone $(ARGS) || [ $$? = 5 ] || failed=1; \
	exit $$failed

lint: $(VENV)/.dev ## check style and types of package, tests and benchmarks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(VENV)/.dev ## run the tests with branch coverage; fails under 90 %
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

bench: $(VENV)/.dev ## measure; the figures in docs/benchmarks.md come from here
	@$(BIN)/python -m benchmarks

chaos: $(VENV)/.dev ## break everything at random and check every promise (ARGS="--operations 10000 --seed 7 --workers 4")
	@$(BIN)/python -m tests.chaos $(ARGS)

soak: $(VENV)/.dev ## look for users' marks where they do not belong (ARGS="--turns 100000 --workers 4 --users 50 --seed 7")
	@$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(VENV)/.dev ## look for faults of owners in FUZZ random histories of several workers (default 2000)
	@FUZZ=$(or $(FUZZ),2000) $(BIN)/python -m pytest tests/test_ownership.py -k "TestWorkers"

guards: $(VENV)/.dev ## take each guard out and see its test fail (ARGS="R6 R9" for some)
	@$(BIN)/python -m tests.guards $(ARGS)

lock: ## resolve the dependencies anew and write both lock files
	@test -x .cache/uv/bin/uv || { $(PYTHON) -m venv .cache/uv && .cache/uv/bin/python -m pip install --quiet uv; }
	@.cache/uv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --group dev pyproject.toml -o requirements-dev.lock
	@.cache/uv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --group build -c requirements-dev.lock pyproject.toml -o requirements.lock

vendor: ## fetch the browser libraries anew and rewrite their manifest
	@$(PYTHON) mcp_chat/web/vendor/refresh.py

clean: ## remove the virtual environment and caches, keep ./data
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache htmlcov .coverage*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing mcp-chat into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.serve
	@echo "Installing the developers' tools into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
