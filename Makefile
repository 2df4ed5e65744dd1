# `make drive` and `make test` do all their own set-up; the other targets are the pieces.
# PYTHON: the interpreter that creates .venv (3.11 or newer). JOBS: test processes.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := $(wildcard models training agents drivedit_env examples tests docs/conf.py)

.PHONY: help drive test venv lint docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make drive   drive 300 steps in the shipped world and write drive.mp4"
	@echo "make test    lint, types, documentation and tests (some of them with two threads), exactly as CI runs them"
	@echo "make venv    create $(VENV) and install the project into it, with every extra"
	@echo "make lint    ruff (rules and format) and pyright"
	@echo "make docs    build the documentation into docs/_build; a warning is an error"
	@echo "make bench   judge the shipped world against held-out drives"
	@echo "make clean   remove $(VENV) and everything that was built"

drive: $(STAMP)
	$(BIN)/python -m drivedit.agents drive --env drivedit_env:DriveDiT-v0 --steps 300 --out drive.mp4
	@echo "To go on: source $(VENV)/bin/activate, then for instance drivedit-play"

test: $(STAMP)
	+$(MAKE) -j 2 lint docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder
	OMP_NUM_THREADS=2 $(BIN)/pytest -q -m threads

lint: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright

docs: $(STAMP)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build

bench: $(STAMP)
	$(BIN)/python -m drivedit.evaluation world --world carracing

venv: $(STAMP)

# pip is the last thing that `venv` writes, so an interrupted creation starts again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "DriveDiT needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) could not create $(VENV); on Debian and Ubuntu install the package python3-venv." >&2; exit 1; }

# The pins go first: without them pip would take the newest torch and its accelerator packages with it.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[data,train,agents,street,sde,sets,docs,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis drive.mp4 .*.part
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
