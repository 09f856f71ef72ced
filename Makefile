# Everything runs in .venv, made on first use. `make train` is the quickstart; .ci/run calls `make test` and `make check`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test check clean

train: .venv/.installed
	$(BIN)/python train.py
	@echo "       (in a new shell, first: . .venv/bin/activate)"

test: .venv/.dev
	$(BIN)/python -m pytest

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy yinggem train.py generate.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ .venv/.installed

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
