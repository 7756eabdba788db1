# Everything runs in .venv, which is made on first use: a machine with Python 3.11 or newer, pip and make is enough.
# PYTHON=... chooses the interpreter.

BIN = .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-compose test-failover test-long check docs release-check bench fmt clean runtime venv

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s  %s\n", $$1, $$2 }' Makefile

demo: runtime  ## run the demo: routers, replicas and a Redis of its own, all local
	@$(BIN)/shared-registry demo

test: venv  ## run most tests, five files at a time; they start their own servers
	MARKER='not slow' .ci/test $(BIN)/python

test-all: venv  ## run all tests, which takes twice as long
	.ci/test $(BIN)/python

test-compose: venv  ## build and run docker-compose.yml and test the cluster; needs Docker and ports 9001-9003
	$(BIN)/python -m pytest -m compose tests/compose

test-failover: venv  ## break Redis in every way, under routers with sessions; prints how long until all is right again
	$(BIN)/python -m pytest --quiet --numprocesses=3 --dist=load -m "" tests/failover

test-long: venv  ## for much longer: models, new simulations, all that breaks, the demo interrupted at every step
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -m "not compose" tests/model tests/simulation tests/cluster/test_many_leases.py \
	    tests/cluster/test_verdict_chaos.py tests/demo/test_demo.py

check: venv  ## lint, formatting, types, import layers, Lua: exactly what CI checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.tools.lua_lint

docs: venv  ## build the site of all pages into build/site; fails where a link leads nowhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

release-check: venv  ## build the release, and install it in empty environments; upload nothing
	.ci/release $(BIN)/python

bench: venv  ## run the benchmarks
	$(BIN)/python -m benchmarks

fmt: venv  ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and everything built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

runtime:
	@EXTRA=demo PYTHON='$(PYTHON)' .ci/venv .venv

venv:
	@PYTHON='$(PYTHON)' .ci/venv .venv
