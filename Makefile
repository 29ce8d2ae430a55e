# What a newcomer types. Everything runs in .venv, with the versions that requirements.lock pins.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?=
AGAINST_RELEASE := $(if $(AGAINST),--against $(AGAINST))
TRAIN ?= cifar10-train.zip
TEST ?= cifar10-test.zip

.PHONY: install demo test test-reliability bench convergence convergence-cpu lint lock clean

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: install
	$(BIN)/repa demo $(DEMO)

test: install
	$(BIN)/python -m pytest

# All trials of what docs/reliability.md promises; `make test` makes a few of each.
test-reliability: install
	REPA_TRIALS=full $(BIN)/python -m pytest tests/reliability

# Beside a checkout of the release: make bench AGAINST=../REPA
bench: install
	$(BIN)/python benchmarks/train_step.py $(AGAINST_RELEASE)
	$(BIN)/python benchmarks/train_step.py $(AGAINST_RELEASE) --cached
	$(BIN)/python benchmarks/sampling.py $(AGAINST_RELEASE)
	$(BIN)/python benchmarks/multi_process.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/cpu_choices.py
	$(BIN)/python benchmarks/reading.py $(AGAINST_RELEASE)
	$(BIN)/python benchmarks/preparing.py
	$(BIN)/python benchmarks/evaluating.py
	$(BIN)/python benchmarks/probing.py

# What alignment does on CIFAR-10 (docs/results.md): on a GPU, or in 40 minutes on two CPU cores.
convergence: install
	$(BIN)/python benchmarks/convergence.py --train $(TRAIN) --test $(TEST) --classifier-epochs 30 \
		--vary "--target-norm channel"

convergence-cpu: install
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/convergence.py --train $(TRAIN) --test $(TEST) \
		--plain configs/cifar10/plain-cpu.yaml --repa configs/cifar10/repa-cpu.yaml --device cpu \
		--samples 1000 --sampler-steps 25 --reference-images 5000 --analysis-images 1000 \
		--out convergence-cpu

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# After a change of dependencies in pyproject.toml; needs uv. Names, versions and hashes only.
lock:
	uv pip compile --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --no-annotate --extra demo --extra hf --extra dev --extra build pyproject.toml -o requirements.lock

clean:
	rm -rf .venv repa-demo repa-demo-text convergence convergence-cpu
