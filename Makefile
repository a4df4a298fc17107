# `make table` and `make test` set up what they need on a fresh machine; both need Python 3.11 or newer with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
SNAKEMAKE := PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES)
# One run at a time in this folder; a lock that a killed run left behind is then safe to remove.
ALONE := flock --close .make.lock sh -c

.PHONY: table report test test-slow overfit check readme clean bench parity

table: $(VENV)/installed
	@$(ALONE) '$(SNAKEMAKE) --unlock --quiet all 2> /dev/null; $(SNAKEMAKE) table --quiet rules host'
	@cat results/smoke/table.md
	@echo; echo "report: results/smoke/report.html    experiments: $(BIN)/mlflow ui --backend-store-uri sqlite:///results/mlflow.db"

report: table

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow and not parity"

# everything that takes minutes: trainings, interrupted runs, the longer comparisons with the living peer
test-slow: $(VENV)/installed-parity
	$(BIN)/python -m pytest -m slow

# eight real photos learnt by heart, with each kind of head, or with KIND=light alone
KIND ?= solo
overfit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -s tests/test_overfit.py -k $(KIND)

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint

bench: $(VENV)/installed-parity
	$(BIN)/python -m tests.parity.bench --device cpu --out results/measured/bench_cpu.json

# side by side with the living peer; ends with the largest error of each section beside its tolerance
parity: $(VENV)/installed-parity
	$(BIN)/python -m pytest tests/parity -m "not slow"
	$(BIN)/python -m tests.parity.show

# the table in README.md, from the last smoke run
readme:
	$(BIN)/python docs/readme.py

clean:
	rm -rf results/smoke results/smoke-* results/logs data/synth .snakemake

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/installed-parity: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,parity]'
	@touch $@
