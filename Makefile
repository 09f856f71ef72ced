# Everything runs in .venv, made on first use. `make train` is the quickstart; .ci/run calls `make test` and `make check`.
#
#   make test    every test, in as many workers as there are cores
#   make fast    the tests of about a second each, for the minute between two edits
#   make soak    the slow tests at full length: more kills, more steps, more random command lines
#   make wasm    the engine for browsers, after a change of its C: needs clang and wasm-ld (Debian: clang, lld)
#   make sanitize  the engine's C under AddressSanitizer, UBSan and ThreadSanitizer, and on an emulated ARM
#   make peers   comparisons with heavy packages, which this installs
PYTHON ?= python3
BIN := .venv/bin
ENGINE := $(wildcard yinggem/engine/*.[ch])
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal
# pip compiles one file after the other, compileall on all cores. These are never imported by a test, or by one alone.
UNUSED := transformers/models/(?!auto/|gpt2/|llama/|mistral/|qwen3/|smollm3/)|/tests?/|/databricks/

.PHONY: train test fast soak wasm sanitize peers check clean

train: .venv/.installed
	$(BIN)/python train.py
	@echo "       (in a new shell, first: . .venv/bin/activate)"

test: .venv/.dev
	$(PYTEST) --durations=25

fast: .venv/.dev
	$(PYTEST) -m "not slow"

soak: .venv/.dev
	YINGGEM_SOAK=1 $(PYTEST) -m slow

wasm: .venv/.dev
	$(BIN)/python -m yinggem.engine.build_wasm

sanitize: .venv/.dev
	YINGGEM_SOAK=1 $(BIN)/python -m pytest -rs tests/engine/test_sanitizers.py

peers: .venv/.dev
	$(BIN)/python -m pip install --quiet --editable ".[peers]"
	$(PYTEST) -m peers

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml $(ENGINE)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml $(ENGINE)
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev]"
	-$(BIN)/python -m compileall -q -j 0 -x '$(UNUSED)' .venv/lib >/dev/null 2>&1
	touch $@ .venv/.installed

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
