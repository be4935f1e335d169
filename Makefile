# make help tells what there is. Everything Python lives in .venv; nothing is installed outside of it but, for
# `make test` as root, the Debian packages that the tests start (prometheus, knot, ...).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test unit lint audit bench simulate fuzz chaos lock rules settings clean packages

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
UV_VERSION := 0.13.9
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

# Debian packages the tests start programs of, and one program of each to tell whether it is there.
DEBIAN := prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager knot:knotd \
	chromium:chromium buildah:buildah crun:crun debootstrap:debootstrap unbound:unbound \
	mosquitto:mosquitto postgresql:pg_createcluster pgbouncer:pgbouncer strace:strace

# Tests that start no server, those whose file does not know how, are a matter of a minute. The others wait for servers
# about as long as they compute, so they run on every core too, file by file, but no more than four at once: each has
# databases and browsers of its own. Those marked `alone` hold the agent to a time that is stated, such as the one in
# which another leads: what ran beside them would be measured with it.
UNIT = $(shell grep -rL --include='test_*.py' tests\.servers tests | grep -v ^tests/ledger/ | sort)
SERVED = $(filter-out $(UNIT),$(shell find tests -name 'test_*.py' | sort))
ON_EVERY_CORE := -q -n auto --dist loadfile
WITH_SERVERS := $(ON_EVERY_CORE) --maxprocesses 4 --no-loadscope-reorder -m 'not alone'

help: ## Show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r name text; do \
		printf '  make %-9s %s\n' "$$name" "$$text"; done

run: $(VENV)/.installed ## Install into .venv and run the demo: status page on http://127.0.0.1:8081/
	@exec $(BIN)/mailvitals run --demo

test: packages lint ## Lint, then the whole suite against real servers (installs Debian packages when root)
	@failed=0; \
	$(BIN)/python -m pytest $(ON_EVERY_CORE) $(UNIT) || failed=1; \
	$(BIN)/python -m pytest $(WITH_SERVERS) $(SERVED) || failed=1; \
	$(BIN)/python -m pytest -q -m alone $(SERVED) || failed=1; \
	[ $$failed = 0 ] || echo "Tests failed: those without servers, with servers, and alone have a summary each above." >&2; \
	exit $$failed

unit: $(VENV)/.tested ## The tests that start no server, in seconds
	@exec $(BIN)/python -m pytest $(ON_EVERY_CORE) $(UNIT)

lint: audit ## ruff, mypy --strict, the import contracts and the audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/.tested ## Hold the lock files against known advisories; without network it says so and fails nothing
	@$(BIN)/python -m tests.audit

bench: $(VENV)/.tested $(VENV)/bench/.installed ## Measure throughput on this machine
	@$(BIN)/python -m bench
	@$(BIN)/python -m bench.evaluate
	@$(BIN)/python -m bench.stores
	@$(BIN)/python -m bench.dns
	@exec $(BIN)/python -m bench.scaled

simulate: $(VENV)/.tested ## How often verdicts err and how soon they speak, on simulated senders
	@exec $(BIN)/python -m bench.verdicts

fuzz: $(VENV)/.tested ## Break signed bodies for ten minutes each as JSON and as forms
	@exec $(BIN)/python -m tests.fuzz

chaos: $(VENV)/.tested ## Kill replicas, database and broker under load for ten minutes: make chaos MINUTES=10 SEED=1
	@exec $(BIN)/python -m tests.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

lock: $(VENV)/.uv ## Bring the lock files in line with pyproject.toml (remove them first to resolve all anew)
	@compile="$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header"; \
	$$compile pyproject.toml -o requirements.lock; \
	$$compile pyproject.toml --group test -c requirements.lock -o requirements-test.lock; \
	$$compile --group build -c requirements-test.lock -o requirements-build.lock; \
	$$compile --group bench -c requirements-test.lock -o requirements-bench.lock

rules: $(VENV)/.installed ## Write the verdict rules anew from the alerts, and deploy/monitoring/ and the chart's from deploy/rules/
	@$(BIN)/python deploy/rules/render.py
	@$(BIN)/python deploy/monitoring/render.py

settings: $(VENV)/.installed ## Write docs/settings.md anew from agent/settings/
	@$(BIN)/python docs/render_settings.py

clean: ## Remove .venv, caches and the demo's data
	rm -rf $(VENV) .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find agent tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each step is done once, and again when what it was made from changes.

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "mailvitals needs Python 3.11 or newer; none was found. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is not Python 3.11 or newer. Name one that is: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		package=$$("$(PYTHON)" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing Debian's $$package" >&2; \
			{ apt-get -qq update && apt-get install -y -qq --no-install-recommends "$$package"; } >&2; \
		else \
			echo "Python's venv module is missing. Install it, then try again: sudo apt-get install $$package" >&2; exit 1; \
		fi; }
	@rm -rf $(VENV)
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: requirements.lock requirements-build.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing mailvitals into $(VENV)" >&2
	@$(PIP) install --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.tested: requirements-test.lock $(VENV)/.installed
	@echo "Installing what the tests need" >&2
	@$(PIP) install --require-hashes -r requirements-test.lock
	@touch $@

# What the benchmarks compare with, in an environment of its own.
$(VENV)/bench/.installed: requirements-bench.lock | $(VENV)/bin/python
	@echo "Installing what the benchmarks compare with" >&2
	@$(BIN)/python -m venv $(VENV)/bench
	@$(VENV)/bench/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements-bench.lock
	@touch $@

$(VENV)/.uv: Makefile | $(VENV)/bin/python
	@$(PIP) install uv==$(UV_VERSION)
	@touch $@

# On a machine with an init system, Debian starts the daemons among these when it installs them; the tests use none of
# those but start their own, on loopback and free ports.
packages:
	@missing=(); for pair in $(DEBIAN); do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair#*:}" >/dev/null || missing+=("$${pair%:*}"); done; \
	[ $${#missing[@]} = 0 ] && exit 0; \
	install="apt-get install -y --no-install-recommends $${missing[*]}"; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "$$install" >&2; apt-get -qq update; DEBIAN_FRONTEND=noninteractive $$install -qq >&2; \
	else \
		echo "The tests start these programs. Install them, then try again: sudo $$install" >&2; exit 1; \
	fi
