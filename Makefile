# BitHive. `make help` lists the targets.
# Everything a target needs is installed into .venv from requirements.lock on first use.

PYTHON ?= python3.11
# On an ordinary Linux machine PyPI's torch brings CUDA; for the small CPU build use
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
BIN := .venv/bin
STAMP := .venv/installed
PACKAGES := protocol storage audit privacy zk consent records models identity fl_client fl_server ledger marketplace portal
SOURCES := $(PACKAGES) experiments tests

.DEFAULT_GOAL := help

# The stamp is newer than the lock file when .venv holds what the lock file names.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11, or give it as PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements.lock $(PIP_ARGS)
	@printf '#!/bin/sh\nPYTHONPATH="%s$${PYTHONPATH:+:$$PYTHONPATH}" exec "%s/python" -m portal "$$@"\n' "$(CURDIR)" "$(CURDIR)/$(BIN)" > $(BIN)/bithive
	@chmod +x $(BIN)/bithive
	@touch $(STAMP)

.PHONY: install
install: $(STAMP) ## install everything into .venv; `.venv/bin/bithive` is then the command

.PHONY: demo
demo: $(STAMP) ## six hospitals train together, are proven, encrypted and paid (ARGS="--data wisconsin")
	$(BIN)/bithive demo $(ARGS)

.PHONY: test
test: $(STAMP) ## what must pass before a change lands: the slow tests and real servers too
	$(BIN)/python -m pytest -m "not exhaustive" -n 2 --dist loadfile $(ARGS)

.PHONY: exhaustive
exhaustive: $(STAMP) ## every test there is, those at full scale too (more than an hour)
	BITHIVE_WHOLE_PATIENTS=64 $(BIN)/python -m pytest -m "exhaustive or not exhaustive" -n 2 --dist loadfile $(ARGS)

.PHONY: check
check: format-check lint types layers fast ## what must pass before a commit, under three minutes

.PHONY: fast
fast: $(STAMP) ## the fast tests
	$(BIN)/python -m pytest -m "not slow and not exhaustive" -n 2 --dist loadfile $(ARGS)

.PHONY: format
format: $(STAMP) ## write the code in one style
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

.PHONY: format-check
format-check: $(STAMP) ## see that it is in one style
	$(BIN)/ruff format --check $(SOURCES)

.PHONY: lint
lint: $(STAMP) ## see that no rule is broken
	$(BIN)/ruff check $(SOURCES)

.PHONY: types
types: $(STAMP) ## see that the dangerous order of steps does not type-check
	$(BIN)/mypy

.PHONY: layers
layers: $(STAMP) ## see that imports point down
	$(BIN)/lint-imports

.PHONY: circuits
circuits: $(STAMP) ## compile the circuits again and compare with what is committed (needs node and npm)
	$(BIN)/python -m zk.circuits.build --check

.PHONY: contracts
contracts: $(STAMP) ## compile the contracts again and compare with what is committed (needs node and npm)
	$(BIN)/python -m ledger.contracts.build --check

.PHONY: experiments
experiments: $(STAMP) ## run every experiment; results go to experiments/results
	$(BIN)/python -m pip install --disable-pip-version-check --quiet nvflare==2.9.0 $(PIP_ARGS)
	for one in experiments/[a-z]*.py; do $(BIN)/python -m experiments.$$(basename $$one .py) || exit 1; done

.PHONY: clean
clean: ## remove the environment and the demonstration's home
	rm -rf .venv bithive-home

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
