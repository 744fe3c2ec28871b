# What a developer types. `make` alone lists it. Every target but `help` and `clean` makes .venv first, once.

PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
# Depends on what an environment is made of: when that changes, it is brought up to date.
STAMP := $(ENV)/.made
PROTOS := $(sort $(wildcard proto/gradwire/v1/*.proto))
# Two test processes with one thread each are faster than one with two, and measured times mean something.
PYTEST_ARGS ?= -n 2
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help env demo test lint format types proto proto-check bench clean

help: ## list the targets
	@echo "gradwire: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

env: $(STAMP) ## make .venv with everything to develop, test and demonstrate (minutes, once)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: gradwire needs Python 3.10 or later; $(PYTHON) is" \
	  "$$($(PYTHON) --version 2>&1). Another one: make env PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make environments." \
	  "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(ENV) with $$($(PYTHON) --version): torch, ART and tools, some 2 GB; two to five minutes ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(ENV)
	@# torch first and exactly: resolved among the others, it may bring gigabytes of CUDA libraries.
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "$(ENV) is ready"

demo: $(STAMP) ## serve a model, attack it from another process, draw pictures (about a minute)
	@$(BIN)/gradwire demo

test: lint ## check everything: lint, then all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP) types proto-check ## style, types, contract, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/buf lint

types: $(STAMP) ## mypy --strict on the four packages
	$(BIN)/mypy

format: $(STAMP) ## bring the code into its form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: $(STAMP) ## generate the Python code of the contract anew
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto --grpc_python_out=proto $(PROTOS)

proto-check: $(STAMP) ## is the generated code what the contract gives?
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out="$$folder" --pyi_out="$$folder" --grpc_python_out="$$folder" $(PROTOS) && \
	for file in "$$folder"/gradwire/v1/*_pb2*; do \
	  diff -u "proto/gradwire/v1/$$(basename "$$file")" "$$file" || { echo "error: the generated code is not the contract's; make proto" >&2; exit 1; }; \
	done && echo "the generated code is the contract's"

bench: $(STAMP) ## gradwire beside plain frameworks and local ART
	$(BIN)/python -m benchmarks.run

clean: ## remove what was made, but for the environment
	rm -rf gradwire-demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .gradwire
	find proto client server backends tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
