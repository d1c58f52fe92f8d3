# On a fresh machine two commands are the whole set-up:
#   make demo    creates the environment, installs, and runs the whole pipeline on the built-in digits
#   make test    runs the tests (and creates the environment where there is none)
# While working: `make smoke` takes half a minute. It runs the house's rules, the arithmetic, integer ops against an
# oracle, and calibrate, finetune, export, validate on a small network of digits.
# Options: make PYTHON=python3.12, VENV=path, PIP_FLAGS="..." (handed to each pip install).

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SMOKE := tests/test_architecture.py tests/qpipe/arith tests/qpipe/ops/test_integer.py tests/qpipe/verbs/test_export.py tests/qpipe/verbs/test_validate.py
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

.PHONY: demo test smoke lint types env clean

demo: $(STAMP)
	$(BIN)/qpipe demo

test: $(STAMP)
	$(PYTEST)

smoke: $(STAMP)
	$(PYTEST) $(SMOKE)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

env: $(STAMP)

# torch comes first and alone: it is by far the largest, and what follows then finds it in place.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qpipe needs python 3.11 or newer, found " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) -e '.[digits,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
