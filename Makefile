# make run [FRAMEWORK=tensorflow]   the whole road on this machine, with no account
# make test                         all tests
# Both set up what they need in .venv first; that takes minutes once.

PYTHON ?= python3.11
FRAMEWORK ?= pytorch

BIN := .venv/bin
READY := .venv/.ready
MODEL := build/models/land-cover-$(FRAMEWORK)
PROTO := components/earthengine/payloads/messages.proto

.DEFAULT_GOAL := help
.PHONY: help run test test-fast lint format benchmark templates proto clean

help:
	@sed -n 's/^# //p' Makefile

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

run: $(READY)
	$(BIN)/python -m components.land_cover $(MODEL) --framework $(FRAMEWORK)
	$(BIN)/python pipeline.py run $(MODEL)

test: $(READY)
	$(BIN)/python -m pytest

test-fast: $(READY)
	$(BIN)/python -m pytest -m 'not slow'

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

benchmark: $(READY)
	$(BIN)/python -m benchmarks.archive
	$(BIN)/python -m benchmarks.steps --framework pytorch
	$(BIN)/python -m benchmarks.steps --framework tensorflow
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.emulator
	$(BIN)/python -m benchmarks.verify

# The golden files that tests hold the compiled templates against.
templates: $(READY)
	$(BIN)/python pipeline.py compile --repository REPOSITORY --tag TAG --output tests/templates

proto: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I . --python_out . --pyi_out . $(PROTO)

clean:
	rm -rf .venv build
