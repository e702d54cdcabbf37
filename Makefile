# Every target prepares what it needs: .venv from pyproject.toml, the stubs from protos/.
# ARGS= is handed on:  make test ARGS="-k lease"   make run SCENARIO=external ARGS=--keep

# The first Python that is new enough; or name one: make test PYTHON=/path/to/python3.11
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && break; done)
EXTRAS := coordinator,agent,dev

JOBS ?= auto

# In the order of the folders: by number of tests, the few that take longest would come last, on one core.
ORDER := --dist loadfile --no-loadscope-reorder

# A run that has not ended by then tells where it is, and is ended with all that it has started.
MINUTES ?= 18

BIN    := .venv/bin
VENV   := .venv/.stamp
STUBS  := countermand/v1/.stamp
PROTOS := $(wildcard protos/countermand/v1/*.proto protos/agent/drivers/*/v1/*.proto)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.PHONY: help run test check lint format types floors protos stubs simulate scale soak bench bench-io docs clean

help: ## Says what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: $(STUBS) ## Runs the demo: a coordinator and three agents on loopback, one copy fails, its siblings are compensated; SCENARIO=external: with a vendor's work
	@$(BIN)/countermand demo $(if $(SCENARIO),--scenario $(SCENARIO)) $(ARGS)

test: $(STUBS) ## Runs the tests on every core (JOBS=1: on one); make test ARGS="-m 'not slow'" leaves out the long ones
	@$(BIN)/python -m pytest --numprocesses $(JOBS) $(ORDER) --minutes-max $(MINUTES) $(ARGS)

check: lint types floors protos test ## Runs all that must pass before a commit

lint: $(STUBS) ## Checks style and layout of the Python files
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo "Some files are not formatted: run 'make format'."; exit 1; }
	@echo "lint: clean"

format: $(STUBS) ## Formats Python files and protos, and mends what ruff can mend
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format
	@$(BIN)/buf format --write protos

types: $(STUBS) ## Checks types
	@$(BIN)/mypy

floors: $(STUBS) ## Checks who imports whom
	@$(BIN)/lint-imports --no-logo

# What main promised must hold. The comparison is with the local branch, or what was last fetched of it.
protos: $(VENV) ## Checks the contract: style, layout, and that nothing on main breaks
	@$(BIN)/buf lint protos
	@$(BIN)/buf format --diff --exit-code protos || { echo "Some protos are not formatted: run 'make format'."; exit 1; }
	@for main in main origin/main; do \
		git ls-tree -r --name-only $$main -- protos/countermand 2>/dev/null | grep -q '\.proto$$' || continue; \
		$(BIN)/buf breaking protos --against ".git#ref=$$(git rev-parse $$main),subdir=protos" || exit 1; \
		echo "protos: clean, and compatible with $$main"; exit 0; \
	done; echo "protos: clean; SKIPPED the comparison: no earlier contract on a branch main of a git repository here"

stubs: $(STUBS) ## Compiles the protos into countermand/v1

simulate: $(STUBS) ## Runs the simulation: make simulate SEED=7 RUNS=100
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS)) $(ARGS)

scale: $(STUBS) ## Plays sites of up to 100 coordinators and 10,000 hosts in virtual time: make scale ARGS=--measure, --compare, or "--size 3,500,10000"
	@$(BIN)/python -m tests.scale $(ARGS)

soak: $(STUBS) ## Has coordinators on PostgreSQL killed for minutes while they work: make soak MINUTES=10 SEED=1 ARGS=--postgres
	@$(BIN)/python -m tests.endtoend.soak $(if $(filter command line,$(origin MINUTES)),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: $(STUBS) ## Measures start-up, memory, throughput and what grows with size, with the goals beside them: make bench ARGS=--help
	@$(BIN)/python -m tests.bench $(ARGS)

bench-io: $(STUBS) ## Measures copies, clones and cancels against qemu-img, cp and a bare loop, goals beside them: make bench-io ARGS="--size 1GiB"
	@$(BIN)/python -m tests.bench.io $(ARGS)

docs: $(STUBS) ## Draws the state tables, the tests of each promise, the metrics and the picture of the documentation anew
	@$(BIN)/python -m tests.draw_states
	@$(BIN)/python -m tests.draw_scenarios
	@$(BIN)/python -m tests.draw_metrics
	@COUNTERMAND_REWRITE=1 $(BIN)/python -m pytest --quiet --no-header tests/cli/test_drawing.py -k documentation
	@git diff --stat -- coordinator/README.md docs 2>/dev/null || true

clean: ## Removes all that make made
	@rm -rf .venv countermand/v1 agent/drivers/csi/v1 countermand/.stubs-* build dist \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installing compiles the stubs as well (protos/generate.py is the build hook), so .venv need only come first.
$(VENV): pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Countermand needs Python 3.11 or newer. Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv .venv
	@echo "Installing countermand[$(EXTRAS)] into it; the first time takes about a minute ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet -e '.[$(EXTRAS)]' >.venv/install.log 2>&1 || { \
		cat .venv/install.log; echo "Installing failed; the reason is above."; exit 1; }
	@touch $@

# The folder too: a proto that has gone must take its stub along.
$(STUBS): protos/generate.py protos/countermand/v1 $(PROTOS) | $(VENV)
	@echo "Compiling the stubs ..."
	@$(BIN)/python protos/generate.py
