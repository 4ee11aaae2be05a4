# make run [FRAMEWORK=tensorflow]   the whole road on this machine, with no account
# make test                         all tests; test-fast: without those that start servers or containers
# make soak                         minutes of load and of faults at every call, with their figures
# make images [REPOSITORY=R TAG=T ACCELERATOR=cuda]   every image; one by its name
# make push REPOSITORY=R TAG=T      the images to where REPOSITORY is, and their digests to build/digests.json
# make lock, sbom, audit            the images' dependencies with hashes, what is in them, what is known against it
# make lint, format, benchmark      ruff and mypy, and every figure beside its bound
# What needs Python sets it up in .venv first; that takes minutes once. Images need Docker alone.

PYTHON ?= python3.11
FRAMEWORK ?= pytorch

BIN := .venv/bin
READY := .venv/.ready
MODEL := build/models/land-cover-$(FRAMEWORK)
PROTO := components/earthengine/payloads/messages.proto

# Where the images lie and their tag; what `run --runner docker` looks for if not given.
REPOSITORY ?= local
TAG ?= rehearsal
# cuda: with NVIDIA's libraries.
ACCELERATOR ?= cpu
IMAGES := $(shell cat containers/images.txt)
BUILD = docker build --build-arg ACCELERATOR=$(ACCELERATOR) --build-arg VERSION=$(TAG) \
  --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown) --tag $(REPOSITORY)/$@:$(TAG)

LOCKS := containers/requirements
# Where uv finds PyTorch's builds without CUDA, which PyPI lacks.
TORCH ?= --torch-backend cpu
LOCK = $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
  --no-annotate --custom-compile-command "make lock" $(UPGRADE)
# kfp's client for Kubeflow clusters, which no image needs; one of these is no wheel.
WITHOUT := --no-emit-package kfp-server-api --no-emit-package kubernetes
STEPS := --extra vertex --extra export --extra serving --extra train

# An image in the registry is the image, not an index with a provenance beside it.
export BUILDX_NO_DEFAULT_ATTESTATIONS := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test test-fast soak lint format benchmark templates lock images push sbom audit $(IMAGES) proto clean

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

run: $(READY)
	$(BIN)/python -m components.land_cover $(MODEL) --framework $(FRAMEWORK)
	$(BIN)/python pipeline.py run $(MODEL)

test: $(READY)
	$(BIN)/python -m pytest -m 'not soak'

test-fast: $(READY)
	$(BIN)/python -m pytest -m 'not slow and not containers and not soak'

soak: $(READY)
	$(BIN)/python -m pytest -m soak

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
	$(BIN)/python -m benchmarks.images

# The golden files that tests hold the compiled templates against.
templates: $(READY)
	$(BIN)/python pipeline.py compile --repository REPOSITORY --tag TAG --output tests/templates

# Every image's dependencies with their hashes; `make lock UPGRADE=--upgrade` for newer ones of those that are not pinned.
lock: $(READY)
	$(LOCK) pyproject.toml $(WITHOUT) --extra vertex -o $(LOCKS)/steps-vertex-cpu.txt
	$(LOCK) pyproject.toml $(WITHOUT) --extra local -o $(LOCKS)/vertex-local.txt
	$(LOCK) containers/trigger/requirements.in -o $(LOCKS)/trigger.txt
	$(LOCK) pyproject.toml --extra serving --extra pytorch $(TORCH) -o $(LOCKS)/serving-pytorch-cpu.txt
	$(LOCK) pyproject.toml --extra serving --extra pytorch -o $(LOCKS)/serving-pytorch-cuda.txt
	$(LOCK) pyproject.toml --extra serving --extra tensorflow-cpu -o $(LOCKS)/serving-tensorflow-cpu.txt
	$(LOCK) pyproject.toml --extra serving --extra tensorflow-cuda -o $(LOCKS)/serving-tensorflow-cuda.txt
	$(LOCK) pyproject.toml $(WITHOUT) $(STEPS) --extra pytorch $(TORCH) -o $(LOCKS)/steps-pytorch-cpu.txt
	$(LOCK) pyproject.toml $(WITHOUT) $(STEPS) --extra pytorch -o $(LOCKS)/steps-pytorch-cuda.txt
	$(LOCK) pyproject.toml $(WITHOUT) $(STEPS) --extra tensorflow-cpu -o $(LOCKS)/steps-tensorflow-cpu.txt
	$(LOCK) pyproject.toml $(WITHOUT) $(STEPS) --extra tensorflow-cuda -o $(LOCKS)/steps-tensorflow-cuda.txt

images: $(IMAGES)

steps-vertex: override ACCELERATOR := cpu
steps-vertex steps-pytorch steps-tensorflow: steps-%:
	$(BUILD) --build-arg STEPS=$* --file containers/steps/Dockerfile .

serving-pytorch serving-tensorflow: serving-%:
	$(BUILD) --build-arg FRAMEWORK=$* --file containers/serving/Dockerfile .

vertex-local:
	$(BUILD) --file containers/vertex_local/Dockerfile .

trigger:
	$(BUILD) --file containers/trigger/Dockerfile .

# To where REPOSITORY is, with their digests in build/digests.json, for `pipeline.py compile --digests`.
push: $(READY)
	$(BIN)/python -m containers.push build/digests.json $(IMAGES:%=$(REPOSITORY)/%:$(TAG))

# What is in each image, read from the image: CycloneDX.
sbom: $(READY)
	$(BIN)/python -m containers.sbom build/sbom $(IMAGES:%=$(REPOSITORY)/%:$(TAG))

# Known vulnerabilities of what is locked, by PyPI; a package that PyPI does not tell of is a failure too. PyPI knows
# PyTorch's build for CPUs, of a local version as 2.13.0+cpu, by its public version. `make audit AUDIT="-s osv"` asks another.
audit: $(READY)
	@failed=0; for lock in containers/requirements/*.txt; do \
	  echo $$lock; \
	  sed -E 's/^([^ ]+==[^ +]+)\+[^ ]+/\1/' $$lock | $(BIN)/pip-audit --requirement /dev/stdin --disable-pip \
	    --require-hashes --strict --progress-spinner off $(AUDIT) || failed=1; \
	done; exit $$failed

proto: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I . --python_out . --pyi_out . $(PROTO)

clean:
	rm -rf .venv build
