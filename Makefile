# Everything a fresh machine with python3, make and git needs:  make demo  |  make test
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Some of the pinned versions do not exist for Python 3.10.
CONSTRAINTS ?= $(shell $(PYTHON) -c "import sys; print('constraints.txt' if sys.version_info >= (3, 11) else '/dev/null')")

.PHONY: demo test nightly check site format clean

demo: $(VENV)/.ready
	$(BIN)/noiserobust demo

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Kills, damage, full disks, two writers, signals: hours of them (docs/robustness.md).
nightly: $(VENV)/.ready
	SURVIVAL=$(or $(COUNT),250) $(BIN)/python -m pytest -n 2 tests/survival

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Checks, speed and full-width trainings on an accelerator, by the machine's own torch where there is no .venv:
# make gpu GPU="--images IMAGES.npz --budget 560", or GPU="--device cpu --tiny" for a rehearsal.
gpu:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) experiments/gpu/run.py $(GPU)

# Versions are pinned by constraints.txt; the file is touched last, so that a broken set-up is done again.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
