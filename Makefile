# Modelyard: everything a contributor runs. Only make and Python 3.11 or newer are needed; the rest comes from wheels.
#
# Nothing here calls a console script by its path: their first lines hold the environment's absolute path, which breaks
# when that path is long or has a space in it. `python -m` has no such limit.

.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
TORCH_INDEX ?=
DATA ?= .yard
ARGS ?=

PY := .venv/bin/python
YARD := $(PY) -m services.cli.main
READY := .venv/.ready
VLLM_PY := .venv-vllm/bin/python
VLLM_READY := .venv-vllm/.ready

# An environment belongs to the folder it was made in: a copied or moved one is made again.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif
ifneq ($(shell cat $(VLLM_READY) 2>/dev/null),$(CURDIR))
.PHONY: $(VLLM_READY)
endif

.PHONY: help setup setup-vllm demo up down test check fix docs bench

help:  ## list the targets
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do printf '%-12s %s\n' "$$target" "$$text"; done
	@echo
	@echo 'Variables: PYTHON (an interpreter, 3.11 or newer), DATA (folder of the yard that up and down use),'
	@echo '  ARGS (more arguments for demo, up, test and bench: make test ARGS="-k claim"),'
	@echo '  TORCH_INDEX (where pip looks for torch too; without a GPU https://download.pytorch.org/whl/cpu'
	@echo '  saves gigabytes of CUDA libraries).'

setup: $(READY)  ## make .venv and install everything, pinned; quick when nothing changed

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo 'Python 3.11 or newer is needed: no "$(PYTHON)" on PATH. Choose one with make PYTHON=/path/to/python3.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Choose one with make PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo '$(PYTHON) cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv).' >&2; exit 1; }
	@echo 'Installing into .venv; the first time takes a few minutes (torch is large).'
	@if [ -s $@ ] && [ "$$(cat $@)" != "$$(pwd -P)" ]; then $(PYTHON) -m venv --clear .venv; fi
	@[ -x $(PY) ] || $(PYTHON) -m venv .venv
	@rm -f $@
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') -e '.[engine,forge,dev]'
	@pwd -P > $@

setup-vllm: $(VLLM_READY)  ## make .venv-vllm: vLLM for CPUs, for its engine and its tests; quick when nothing changed

$(VLLM_READY): constraints-vllm.txt
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer with its venv module is needed; choose one with make setup-vllm PYTHON=/path/to/python3." >&2; exit 1; }
	@[ -s $@ ] && [ "$$(cat $@)" = "$$(pwd -P)" ] || $(PYTHON) -m venv --clear .venv-vllm
	@rm -f $@
	@echo '1/3 torch, into .venv-vllm; the first time takes some minutes'
	@$(VLLM_PY) -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') setuptools torch
	@echo '2/3 vLLM and what it needs ('"$$(grep -c == constraints-vllm.txt)"' packages)'
	@$(VLLM_PY) -m pip install --quiet --disable-pip-version-check --no-deps $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') -r constraints-vllm.txt
	@echo '3/3 a look at it'
	@$(VLLM_PY) -c 'import vllm; print("vLLM", vllm.__version__)' 2>/dev/null || { echo 'vLLM does not start here: $(VLLM_PY) -c "import vllm" says why.' >&2; exit 1; }
	@pwd -P > $@

demo: $(READY)  ## a whole yard up, a real job, its verified webhook, and down again
	@$(YARD) demo $(ARGS)

up: $(READY)  ## start a yard in DATA and stay in front of it (Ctrl-C stops it)
	@$(YARD) up --data '$(DATA)' $(ARGS)

down: $(READY)  ## stop the yard in DATA
	@$(YARD) down --data '$(DATA)'

test: $(READY)  ## all tests, on real stores
	@$(YARD) doctor > .venv/doctor.txt || { cat .venv/doctor.txt >&2; exit 1; }
	@$(PY) -m pytest $(ARGS)

check: $(READY)  ## lint, format, types, import rules, generated docs: reads only
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True))'
	$(PY) -m infra.docs.reference --check

fix: $(READY)  ## mend what ruff can mend, format, write the generated docs
	$(PY) -m ruff check --fix --exit-zero .
	$(PY) -m ruff format .
	$(PY) -m infra.docs.reference

docs: $(READY)  ## write infra/docs/reference.md from the code
	$(PY) -m infra.docs.reference

bench: $(READY)  ## ratios of this machine, written to bench/results/
	@$(PY) -m bench $(ARGS)
