# Two commands matter: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test lint check configs clean

help:
	@echo "make demo     train, evaluate, fuse, export and verify MobileOne_S0 on sample pictures (3 minutes on 2 cores)"
	@echo "make test     the tests but for the slow ones"
	@echo "make check    what a commit must pass: lint, format, generated files, all tests"
	@echo "make install  .venv with everything, PaddleClas included; does nothing when it is up to date"
	@echo "make configs  write configs/ anew from ppcls_ext/config_table"

install: $(INSTALLED)

# PaddleClas 2.4.2 is the last wheel with the training engine; its own pins cannot be installed on a current Python,
# so it comes without dependencies and the [engine] extra brings what it imports.
$(INSTALLED): setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps "paddleclas==2.4.2"
	touch $@

demo: $(INSTALLED)
	$(BIN)/python tools/demo.py

# One process a core, each with one thread: most tests are too small for more.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/make_configs.py --check

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "slow or not slow"

configs: $(INSTALLED)
	$(BIN)/python tools/make_configs.py

clean:
	rm -rf $(VENV) *.egg-info
