# Commands for developers; `make` lists them. Every target but `help`, `findings` and `clean` first creates .venv, once.

PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
# Depends on the lists of packages: when they change, the environment is updated.
STAMP := $(ENV)/.made
# MXNet needs a numpy that no other framework supports any more, so its servers have an environment of their own.
MXNET_PYTHON ?= $(PYTHON)
MXNET_ENV := .venv-mxnet
MXNET_STAMP := $(MXNET_ENV)/.made
PROTOS := $(sort $(wildcard proto/gradwire/v1/*.proto))
# Two test processes with one thread each are faster than one with two, and make measured times reliable.
PYTEST_ARGS ?= -n 2
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Without compiled files every run of the tests, and every server that they start, compiles everything again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env demo quick test test-one lint format types proto readme proto-check containers bench findings clean

help: ## list the targets
	@echo "gradwire: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

env: $(STAMP) $(MXNET_STAMP) ## create .venv with everything to develop, test and demonstrate, and .venv-mxnet (minutes, once)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: gradwire needs Python 3.10 or later; $(PYTHON) is" \
	  "$$($(PYTHON) --version 2>&1). To use another one: make env PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make environments." \
	  "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(ENV) with $$($(PYTHON) --version): torch, TensorFlow, JAX, ART and tools, some 3.5 GB; two to five minutes ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(ENV)
	@# torch first and exactly: resolved among the others, it may bring gigabytes of CUDA libraries.
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "$(ENV) is ready"

$(MXNET_STAMP): pyproject.toml constraints-mxnet.txt
	@$(MXNET_PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' || { echo "error: MXNet 1.9.1 needs numpy 1.23," \
	  "which supports Python 3.10 and 3.11; $(MXNET_PYTHON) is $$($(MXNET_PYTHON) --version 2>&1)." \
	  "To use another one: make env MXNET_PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(MXNET_PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(MXNET_PYTHON) cannot make environments." \
	  "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(MXNET_ENV) with $$($(MXNET_PYTHON) --version): MXNet, 400 MB; half a minute ..."
	@$(MXNET_ENV)/bin/python -m pip --version >/dev/null 2>&1 || $(MXNET_PYTHON) -m venv --clear $(MXNET_ENV)
	@$(MXNET_ENV)/bin/python -m pip install --quiet -c constraints-mxnet.txt -e '.[mxnet]'
	@$(MXNET_ENV)/bin/python -c 'import mxnet' || { echo "error: MXNet does not start; it needs libgomp1 and libquadmath0" \
	  "of the system. On Debian and Ubuntu: apt-get install libgomp1 libquadmath0" >&2; exit 1; }
	@touch $@
	@echo "$(MXNET_ENV) is ready"

demo: $(STAMP) ## serve a model, attack it from another process, draw pictures (about a minute)
	@$(BIN)/gradwire demo

quick: $(STAMP) ## check style and types, and run the tests without processes and frameworks (two minutes)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -q $(PYTEST_ARGS) -m quick; tests=$$?; wait $$types && exit $$tests

test: lint $(MXNET_STAMP) ## check everything: lint, then all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-one: $(STAMP) $(if $(filter mxnet,$(BACKEND)),$(MXNET_STAMP)) ## run the tests of some backends: make test-one BACKEND=jax,torch
	@[ -n "$(BACKEND)" ] || { echo "error: make test-one needs BACKEND=NAME, e.g. BACKEND=jax" >&2; exit 2; }
	$(BIN)/python -m pytest $(PYTEST_ARGS) --backend $(BACKEND) tests/backends tests/conformance tests/one_model

lint: $(STAMP) types proto-check ## style, types, contract, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/buf lint

types: $(STAMP) ## mypy --strict on the four packages
	$(BIN)/mypy

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: $(STAMP) ## regenerate the Python code of the contract
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto --grpc_python_out=proto $(PROTOS)

readme: $(STAMP) $(MXNET_STAMP) ## write the tables in README.md and docs/security.md from servers' answers
	GRADWIRE_WRITE_README=1 $(BIN)/python -m pytest -q tests/conformance/test_readme.py tests/server/trust/test_matrix.py

proto-check: $(STAMP) ## compare the generated code with the contract
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out="$$folder" --pyi_out="$$folder" --grpc_python_out="$$folder" $(PROTOS) && \
	for file in "$$folder"/gradwire/v1/*_pb2*; do \
	  diff -u "proto/gradwire/v1/$$(basename "$$file")" "$$file" || { echo "error: the generated code does not match the contract; run make proto" >&2; exit 1; }; \
	done && echo "the generated code matches the contract"

containers: $(STAMP) ## build images with buildah and attack their servers (as root; minutes)
	$(BIN)/python -m pytest -m container -rs tests/deploy

bench: $(STAMP) ## compare gradwire with plain frameworks and local ART
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.frameworks.run

findings: ## run the scripts of surprises about other libraries (as many environments; half an hour)
	@PYTHON=$(PYTHON) findings/run.sh

clean: ## remove generated files, except the environments
	rm -rf gradwire-demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .gradwire
	find proto client server backends tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
