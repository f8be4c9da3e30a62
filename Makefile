# Each target makes its own environment from requirements.lock if it is not there. `make` alone prints what there is.

VENV ?= .venv
# The first Python at hand that the project supports; or say which: make run PYTHON=/path/to/python3.12
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
ARGS ?=
# A process of tests a core, each given whole files: some files are one story. None: make test SPREAD=
SPREAD ?= -n logical --dist loadfile --no-loadscope-reorder

BIN := $(abspath $(VENV)/bin)
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
ACTIVE := PATH="$(BIN):$$PATH"
STAMP := $(VENV)/.made-from
STAMP_TEXT = { pwd; cat requirements.lock; }

.PHONY: help run stability test quick test-faults test-cluster lint clean wheel lock venv venv-anew

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: venv  ## everything of the default study, into results/tiny (ARGS="..." goes to snakemake)
	@$(ACTIVE) snakemake --cores all $(ARGS)

stability: venv  ## the default study's Table 3 with other seeds and on another CPU: do verdicts stay? (1,260 runs)
	@$(ACTIVE) snakemake --cores all --configfile config/stability.yaml $(ARGS)
	@$(ACTIVE) ATEN_CPU_CAPABILITY=default snakemake --cores all --configfile config/stability.yaml \
		--config study=stability-default $(ARGS)
	@$(ACTIVE) python -m lomo_analysis stability --results results/stability results/stability-default \
		--out results/stability/tables

test: venv  ## all tests (ARGS="..." goes to pytest)
	@$(ACTIVE) python -m pytest $(SPREAD) $(ARGS)

quick: venv  ## the quick tests
	@$(ACTIVE) python -m pytest $(SPREAD) -m "not slow" $(ARGS)

# Files that `make test` does not look at; a table of what came of each fault is left in results/faults.
test-faults: venv  ## a study of seconds under kills, full disks, closed doors, limits: each fault three times
	@$(ACTIVE) python -m pytest $(SPREAD) --dist load -o python_files='fault_*.py' tests/faults $(ARGS)

test-cluster: venv  ## studies on a real Slurm of this machine, with jobs and a node killed (root; ARGS="--tiny": the default study, too)
	@$(ACTIVE) python tests/cluster/try_cluster.py $(ARGS)

lint: venv  ## style, types, format of the rules, spelling
	@$(ACTIVE) ruff check .
	@$(ACTIVE) ruff format --check .
	@$(ACTIVE) mypy
	@$(ACTIVE) snakefmt --check Snakefile workflow
	@$(ACTIVE) codespell

clean:  ## removes results/tiny and the caches; keeps the environment and other studies' results
	rm -rf results/tiny results/index.html .pytest_cache .mypy_cache .ruff_cache dist build *.egg-info packages/*/build packages/*/*.egg-info

wheel: venv  ## dist/: the optimizers alone, as a wheel that needs torch and nothing else
	@rm -rf packages/lomo-fused/build dist && mkdir dist
	@$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w dist packages/lomo-fused
	@wc -c dist/*.whl

lock:  ## requirements.lock anew, from the ranges in pyproject.toml
	@echo "resolving pyproject.toml's ranges into requirements.lock (some minutes)"
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@# torch first and by its exact version: a range would take the newest build, gigabytes of CUDA packages with it.
	@.venv-lock/bin/pip install -qq "$$(grep '^torch==' requirements.lock)"
	@.venv-lock/bin/pip install -qq -e '.[dev]'
	@{ grep '^#' requirements.lock; .venv-lock/bin/pip freeze --all --exclude-editable --exclude pip --exclude wheel \
		| sed 's/+[a-z0-9.]*$$//' | grep -vE '^(nvidia|cuda|triton)'; } > .venv-lock/requirements.lock
	@mv .venv-lock/requirements.lock requirements.lock && rm -rf .venv-lock
	@git --no-pager diff --stat requirements.lock

# The stamp names the folder and the lock, and is written last: a killed install, a changed lock or a copied
# checkout (an environment knows its own path) is made again from nothing.
venv:
	@$(STAMP_TEXT) | cmp -s - $(STAMP) || $(MAKE) --no-print-directory venv-anew
	@# What is installed of the checkout, and under which names, stands in pyproject.toml.
	@cmp -s pyproject.toml $(VENV)/pyproject.toml || { $(PIP) --no-build-isolation --no-deps -e . && cp pyproject.toml $(VENV)/; }

# setuptools comes first, because deepspeed has only a source package and builds with it, without a build
# environment fetched for it. Byte code is compiled on all cores afterwards; pip would use one. compileall's exit
# status says only that some package ships a file for another Python.
venv-anew:
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found; say where it is: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "making $(VENV) from requirements.lock with $(PYTHON) (about 2 minutes, once; longer where torch comes with CUDA)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) "$$(grep '^setuptools==' requirements.lock)"
	@$(PIP) --no-build-isolation --no-compile -r requirements.lock
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > $(VENV)/compile.log 2>&1 || true
	@$(STAMP_TEXT) > $(STAMP)
