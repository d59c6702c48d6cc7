# Two commands matter: `make quickstart` and `make test`. Each installs what it needs into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# TORCH=cpu takes torch's CPU build, about 200 MB instead of 3 GB, through uv.
TORCH ?=

.PHONY: quickstart test slow check clean help
.DEFAULT_GOAL := help

help:
	@echo "make quickstart  install, label the bundled photographs, name the picture to open (TORCH=cpu: smaller download)"
	@echo "make test        install the test extra, run every test but the slow ones"
	@echo "make slow        the rest"
	@echo "make check       format, lint, types, import contracts"

quickstart: $(VENV)/installed
	@echo "== labelling the bundled photographs into out/quickstart/"
	@$(BIN)/python -m jobs.quickstart

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not slow"

slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/installed-test
	$(BIN)/ruff format --check pipeline jobs tests
	$(BIN)/ruff check pipeline jobs tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "maskfleet needs Python 3.11 or newer: make quickstart PYTHON=python3.11")'
	@echo "== making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "== installing maskfleet and what it needs (once; about 3 GB to download unless TORCH=cpu, 2 to 10 minutes)"
	@$(call install,.)
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "== installing what the tests need"
	@$(call install,.[test$(,)check])
	@touch $@

, := ,
ifeq ($(TORCH),cpu)
define install
$(BIN)/python -m pip install --quiet --disable-pip-version-check uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=cpu --constraint constraints.txt --editable "$(1)"
endef
else
define install
$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable "$(1)"
endef
endif

clean:
	rm -rf $(VENV) out
