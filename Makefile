# On a fresh machine two commands are the whole set-up:
#   make demo    creates the environment, installs, and runs the whole pipeline on the built-in digits
#   make test    runs the tests (and creates the environment where there is none)
# Options: make PYTHON=python3.12, VENV=path, PIP_FLAGS="..." (handed to each pip install).

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

.PHONY: demo test lint types env clean

demo: $(STAMP)
	$(BIN)/qpipe demo

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

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
