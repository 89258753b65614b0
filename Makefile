# Two commands for newcomers: `make run` and `make test`. Everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
INSTALLED := $(VENV)/.installed

.PHONY: run test quick lint mutants format clean

run: $(INSTALLED)
	$(BIN)/python experiments/run.py sde=vp sampler=pc $(ARGS)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The first case of every test that takes less than half a second: one minute on two cores.
quick: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m quick

# A type checker follows no installation from a source tree: links stand for the packages.
LINKS := $(VENV)/typing/scoresde
PACKAGES := sde samplers models training evaluation conditioning interop data experiments

lint: $(INSTALLED)
	mkdir -p $(LINKS)
	ln -sfn $(foreach p,$(PACKAGES),$(CURDIR)/$(p)) $(LINKS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Every coefficient and sign of the solvers changed in turn: an hour, not part of CI.
mutants: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,tensorboard,wandb,sweep,torchsde,compare,parquet]"
	touch $@

clean:
	rm -rf $(VENV)
