# What a newcomer types. Everything runs in .venv, with the versions that requirements.lock pins.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?=

.PHONY: install demo test bench lint lock clean

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: install
	$(BIN)/repa demo $(DEMO)

test: install
	$(BIN)/python -m pytest

bench: install
	$(BIN)/python benchmarks/cpu_choices.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/preparing.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/evaluating.py
	$(BIN)/python benchmarks/probing.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# After a change of dependencies in pyproject.toml; needs uv. Names, versions and hashes only.
lock:
	uv pip compile --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --no-annotate --extra demo --extra hf --extra dev --extra build pyproject.toml -o requirements.lock

clean:
	rm -rf .venv repa-demo
