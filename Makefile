# make reproduce            trained checkpoints -> every task -> tables, plots and a report in runs/micro
# make reproduce RETRAIN=1  the same, with every model trained anew first
# make small                scale small, for one GPU: trains what is not trained yet, then measures it, in runs/small;
#                           stopped at any moment, the same command goes on. In little time fewer models, elsewhere:
#                           make small MODELS=gdn+swa,gdn+swa:fwpkm OUT=runs/two; DATA=… is the text
# make test                 environment, lint, type check and tests
# make lint                 ruff and mypy alone
# make bench-gpu            speed and memory of operations and models on a GPU -> results/bench-gpu
# make soak                 long: kills, damaged and hostile input, fuzzing -> results/reliability.md
# PYTHON=python3.12 chooses the interpreter that the environment is made with (3.11 or later).

PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/micro
RETRAIN ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALLED := $(VENV)/.installed
INSTALLED_GPU := $(VENV)/.installed-gpu

.PHONY: reproduce small test lint bench-gpu soak install clean

reproduce: $(INSTALLED)
	$(BIN)/fwpkm-eval reproduce --scale micro --out $(OUT) $(if $(filter-out 0,$(RETRAIN)),--retrain)

small: OUT = runs/small
small: $(INSTALLED_GPU)
	$(BIN)/fwpkm-eval reproduce --scale small --retrain --device cuda --workers 4 --out $(OUT) \
	  $(if $(MODELS),--models '$(MODELS)') $(if $(DATA),--data '$(DATA)')

# Files are whole to a process, so that what a file makes once is made once. Beside a GPU its kernels are tested, too.
test: $(if $(shell command -v nvidia-smi),$(INSTALLED_GPU)) lint
	$(BIN)/python -P -m pytest -q -n auto --maxprocesses 4 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-gpu: $(INSTALLED_GPU)
	$(BIN)/fwpkm-eval bench --what ops,models --size paper --batch 8 --scaling --device cuda --out results/bench-gpu

soak: $(INSTALLED)
	$(BIN)/python -P -m pytest -q --hypothesis-profile=soak tests/test_fuzz.py
	$(BIN)/fwpkm-eval soak --out results

install: $(INSTALLED)

# setuptools comes first, at its pinned version, so that the build takes it instead of fetching the newest.
$(INSTALLED): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than 3.11: make PYTHON=python3.11 (or later)" >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "error: cannot make $(VENV): on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV), once: this takes a minute or more"
	@$(PIP) install -c constraints.txt setuptools
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# Gated DeltaNet's kernels, which are for CUDA alone.
$(INSTALLED_GPU): $(INSTALLED)
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev,gpu]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
