# Everything a stranger needs: `make run` and `make test` set themselves up on a bare Debian machine.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
CONFIG := config/qguard.yaml

.PHONY: help setup run test test-long lint format types layers compose-check test-parts break mutants bench bench-hook bench-swarm calibrate lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(VENV)/.runtime ## Install qguard into .venv (the command is .venv/bin/qguard)

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "qguard needs Python 3.11 or later; say which: make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { scripts/install-venv.sh && $(PYTHON) -m venv $(VENV); }

$(VENV)/.runtime: requirements.lock requirements-build.lock pyproject.toml | $(VENV)/bin/pip
	@$(PIP) --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

$(CONFIG):
	@cp config/qguard.example.yaml $@
	@echo "made $@ from the example: put your qBittorrent's address and your trackers in"

run: setup $(CONFIG) ## Set up, and start the service
	@$(BIN)/qguard run

test-parts: ## Install what the tests need: real qbittorrent-nox in three versions, a tracker
	@scripts/install-test-parts.sh

test: $(VENV)/.dev test-parts lint types layers compose-check ## Set up, check and test everything (about 17 minutes)
	@$(BIN)/python -m pytest -n 4 --dist loadfile --ignore tests/swarm  # most wait for a client: four fit two processors
	@$(BIN)/python -m pytest tests/swarm  # alone: what is measured there are rates

test-long: $(VENV)/.dev ## The property tests with a hundred times as many examples
	@QGUARD_HYPOTHESIS=long $(BIN)/python -m pytest tests/properties

bench-hook: $(VENV)/.dev test-parts ## Measure how soon a hook leads to a limit, on each qBittorrent
	@$(BIN)/python -m scripts.bench_hook

bench: $(VENV)/.dev ## Measure the allocators, from 1,000 to 100,000 torrents (about 2 minutes)
	@$(BIN)/python -m scripts.bench

bench-swarm: $(VENV)/.dev test-parts ## Measure each way to keep a cap on a real swarm (about 50 minutes; SWARM="--drive adaptive" for less, SWARM="--scene all" for every scene)
	@$(BIN)/python -m scripts.bench_swarm $(SWARM)

calibrate: $(VENV)/.dev test-parts ## Compare the simulated client's upload with a real qBittorrent's (about 8 minutes)
	@$(BIN)/python -m scripts.calibrate

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format" >&2; exit 1; }
	@$(BIN)/ruff check .

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix-only --quiet .

types: $(VENV)/.dev
	@$(BIN)/mypy

layers: $(VENV)/.dev
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

compose-check: test-parts
	@docker-compose -f docker-compose.yml config --quiet && echo "docker-compose.yml: good"

break: $(VENV)/.dev test-parts ## Break each guarantee by hand and see its test turn red (about 10 minutes)
	@$(BIN)/python scripts/break_guarantees.py

mutants: $(VENV)/.dev ## Change the allocators in 3,000 small ways and count what the tests notice (about an hour)
	@$(BIN)/python -m scripts.mutants

lock: $(VENV)/.dev ## Pin the newest dependencies, without index addresses
	@scripts/lock.sh

clean: ## Remove what make made, except your configuration and data
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
