# Two commands matter: `make quickstart` and `make test`. Each installs what it needs into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECK := .venv-check
PEERS := .venv-peers
NEWEST := .venv-newest-ray
CONSTRAINTS := constraints.txt
# TORCH=cpu takes torch's CPU build, about 200 MB instead of 3 GB, through uv.
TORCH ?=

# Flags of `make bench-…`.
ARGS ?=

# Seeds of `make chaos`, mutated inputs of `make fuzz`.
SEEDS ?= 200
INPUTS ?= 100000
# `make mutants` stops after so long; the next start goes on.
MINUTES ?= 60

.PHONY: quickstart test slow check types hooks mutants bench-pipeline bench-models bench-scale bench-peers newest-ray chaos fuzz clean help
.DEFAULT_GOAL := help

help:
	@echo "make quickstart  install, label the bundled photographs, name the picture to open (TORCH=cpu: smaller download)"
	@echo "make test        install what the tests need, run every test but the slow ones"
	@echo "make slow        the rest"
	@echo "make check       format, lint, spelling, types, import contracts; in $(CHECK), without torch and Ray (300 MB)"
	@echo "make types       types once more, with those of torch and Ray"
	@echo "make hooks       what git runs before each commit: format, lint, spelling"
	@echo "make mutants     break the plan, what remains of it, and the parts in many small ways: which breaks do no tests see?"
	@echo "make chaos       SEEDS=$(SEEDS) runs in which workers, nodes and drivers are killed; goes on where it stopped (an hour)"
	@echo "make fuzz        INPUTS=$(INPUTS) mutated images, tars and Parquet files through a worker (10 minutes)"
	@echo "make bench-pipeline | bench-models | bench-scale   measure on this machine; ARGS=\"--images 384\" adds flags, see tests/benchmarks"
	@echo "make bench-peers the benchmark against Ray Data, Daft and a DataLoader, installed into $(PEERS)"
	@echo "make newest-ray  the flow tests on the newest Ray, installed into $(NEWEST)"

quickstart: $(VENV)/installed
	@echo "== labelling the bundled photographs into out/quickstart/"
	@$(BIN)/python -m jobs.quickstart

# Two processes, each with a Ray and an S3 server for all of its tests; a file stays in one, and the long flows come first.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed-test
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" --cov

slow: $(VENV)/installed-test
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not alone"
	$(BIN)/python -m pytest -m "slow and alone"

# Without torch, Ray and numba their classes, decorators and answers are Any to mypy: what that hides, `make types` finds.
UNTYPED := --ignore-missing-imports --allow-subclassing-any --allow-untyped-decorators --no-warn-return-any --no-warn-unused-ignores

check: $(CHECK)/installed
	$(CHECK)/bin/ruff format --check pipeline jobs tests
	$(CHECK)/bin/ruff check pipeline jobs tests
	$(CHECK)/bin/codespell
	$(CHECK)/bin/mypy $(UNTYPED) --cache-dir .mypy_cache/check
	$(CHECK)/bin/lint-imports --no-cache

types: $(CHECK)/installed $(VENV)/installed-test
	$(CHECK)/bin/mypy --python-executable $(BIN)/python

hooks: BIN := $(CHECK)/bin
hooks: $(CHECK)/installed
	@$(call install,--group hooks)
	$(BIN)/pre-commit install

mutants: $(VENV)/installed-test
	@$(call install,--group mutants)
	$(BIN)/python -m tests.mutants --minutes $(MINUTES)

bench-pipeline bench-models bench-scale: $(VENV)/installed-test
	$(BIN)/python -m tests.benchmarks $(@:bench-%=%) $(ARGS)

bench-peers: $(PEERS)/installed
	$(PEERS)/bin/python -m tests.benchmarks peers $(ARGS)

newest-ray: $(NEWEST)/installed
	@$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "ray[data,default]"
	@$(NEWEST)/bin/python -c 'import ray; print("== the flow tests on Ray", ray.__version__)'
	$(NEWEST)/bin/python -m pytest -m "not slow" tests/flow tests/unit/test_public_ray.py

chaos: $(VENV)/installed-test
	$(BIN)/python -m tests.chaos --seeds $(SEEDS)

fuzz: $(VENV)/installed-test
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS)

$(VENV)/bin/python $(CHECK)/bin/python $(PEERS)/bin/python $(NEWEST)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "maskfleet needs Python 3.11 or newer: make quickstart PYTHON=python3.11")'
	@echo "== making $(@:/bin/python=)"
	@$(PYTHON) -m venv $(@:/bin/python=)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "== installing maskfleet and what it needs (once; about 3 GB to download unless TORCH=cpu, 2 to 10 minutes)"
	@$(call install,--editable .)
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "== installing what the tests need"
	@$(call install,--editable . --group test)
	@touch $@

# Tools, and the light packages whose types mypy reads.
$(CHECK)/installed: BIN := $(CHECK)/bin
$(CHECK)/installed: $(CHECK)/bin/python pyproject.toml constraints.txt
	@echo "== installing what the static checks need into $(CHECK) (once)"
	@$(call install,--group check)
	@touch $@

# An environment of its own: daft wants an older pyarrow. What tests/benchmarks/constraints.txt pins comes before constraints.txt.
$(PEERS)/installed: BIN := $(PEERS)/bin
$(PEERS)/installed: CONSTRAINTS := $(PEERS)/constraints.txt
$(PEERS)/installed: $(PEERS)/bin/python pyproject.toml constraints.txt tests/benchmarks/constraints.txt
	@echo "== installing maskfleet and its peers into $(PEERS) (once; as large as $(VENV))"
	@awk -F== '!/^#/ && !pinned[$$1]++' tests/benchmarks/constraints.txt constraints.txt > $(CONSTRAINTS)
	@$(call install,--editable . --group peers)
	@touch $@

# Everything as constraints.txt pins it, but Ray.
$(NEWEST)/installed: BIN := $(NEWEST)/bin
$(NEWEST)/installed: CONSTRAINTS := $(NEWEST)/constraints.txt
$(NEWEST)/installed: $(NEWEST)/bin/python pyproject.toml constraints.txt
	@echo "== installing maskfleet and what its tests need into $(NEWEST) (once; as large as $(VENV))"
	@grep -v '^ray==' constraints.txt > $(CONSTRAINTS)
	@$(call install,--editable . --group test)
	@touch $@

# Groups of pyproject.toml take pip 25.1.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
ifeq ($(TORCH),cpu)
define install
$(PIP) uv && $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --torch-backend=cpu --constraint $(CONSTRAINTS) $(1)
endef
else
define install
$(PIP) "pip>=25.1" && $(PIP) --constraint $(CONSTRAINTS) $(1)
endef
endif

clean:
	rm -rf $(VENV) $(CHECK) $(PEERS) $(NEWEST) out mutants
