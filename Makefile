# Two commands matter: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# With `make … PYTHON=python3.12`, a .venv of another Python is not what was asked for.
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(BIN)/python),)
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
ASKED := $(shell $(PYTHON) -c '$(VERSION)')
THERE := $(shell $(BIN)/python -c '$(VERSION)')
ifneq ($(ASKED),$(THERE))
ifneq ($(MAKECMDGOALS),clean)
$(error $(VENV) has Python $(THERE), and PYTHON=$(PYTHON) is $(ASKED): run make clean first, or leave PYTHON out)
endif
endif
endif
endif

.PHONY: help install demo test lint docs check matrix configs notebooks release-check clean

help:
	@echo "make demo     train, evaluate, fuse, export and verify MobileOne_S0 on sample images (2 minutes on 2 cores)"
	@echo "make test     the tests but for the slow ones"
	@echo "make docs     the documentation in English and Chinese, into build/docs; a dead link or anchor is an error"
	@echo "make check    what a commit must pass: lint, format, generated files, documentation, all tests"
	@echo "make install  .venv with everything, PaddleClas included; does nothing when it is up to date"
	@echo "make matrix   tests with each Python from 3.9 to 3.13 that is found, the oldest and the newest Paddle (hours)"
	@echo "make configs  write configs/ anew from ppcls_ext/config/shipped.py"
	@echo "make notebooks       write docs/notebooks/*.ipynb anew from the .py beside them"
	@echo "make release-check   version, changelog, sdist and wheel, as an index of packages would get them"

install: $(INSTALLED)

# PaddleClas 2.4.2 is the last wheel with the training engine; its own pins cannot be installed on a current Python,
# so it comes without dependencies and the [train] extra brings what it imports.
# An installation that broke off leaves .unfinished, and the next one starts afresh.
$(INSTALLED): setup.py
	if test -e $(VENV)/.unfinished; then echo "$(VENV) was left unfinished: it is made anew"; rm -rf $(VENV); fi
	test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	touch $(VENV)/.unfinished
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps "paddleclas==2.4.2"
	rm $(VENV)/.unfinished
	touch $@

demo: $(INSTALLED)
	$(BIN)/python tools/demo.py

# One process a core, each with one thread: most tests are too small for more.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/make_configs.py --check

# -E: from scratch, so that nothing of an earlier build stays; -n and -W: what leads nowhere is an error.
SPHINX := $(BIN)/python -m sphinx -E -n -W --keep-going -q -c docs
docs: $(INSTALLED)
	$(SPHINX) -d build/doctrees/en docs build/docs
	$(SPHINX) -d build/doctrees/zh -D language=zh_CN docs/zh build/docs/zh
	@echo "build/docs/index.html"

check: lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "slow or not slow"

# Each Python that is found: a fresh environment, the fast tests and a chain of tools. Hours; not part of CI.
# Some rows only: make matrix ROWS="3.9-lowest 3.12-newest 3.12-3.1.1".
matrix:
	$(PYTHON) tests/matrix.py $(ROWS)

configs: $(INSTALLED)
	$(BIN)/python tools/make_configs.py

notebooks: $(INSTALLED)
	$(BIN)/jupytext --update --to notebook docs/notebooks/*.py

release-check: $(INSTALLED)
	$(BIN)/python tools/release_check.py

clean:
	rm -rf $(VENV) .matrix build *.egg-info
