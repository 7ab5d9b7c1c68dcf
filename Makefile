# Everything runs in .venv, which is made when it is not there; PYTHON says with which Python (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lint pytest coverage soak bench conformance clean

help:
	@echo "make demo         a first tour (pykernel demo)"
	@echo "make test         lint, types, layers, and the whole test suite"
	@echo "make lint         ruff, mypy, pyright, import-linter"
	@echo "make pytest       the test suite alone; ARGS='-k wq -x' are pytest's"
	@echo "make coverage     the test suite with branch coverage; the report is in htmlcov/"
	@echo "make soak         machines that move under load, with 1,000 seeds; it goes on where it was"
	@echo "make bench        measured figures beside their targets"
	@echo "make conformance  compare with the recorded answers of Linux"
	@echo "make clean        remove .venv and everything that was made"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "pykernel needs Python 3.11 or newer: make PYTHON=/path/to/python3 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "no venv module: apt-get install python3-venv"; exit 1; }
	@echo "installing pykernel and what its tests need into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/pykernel demo

test: lint pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

pytest: $(READY)
	$(BIN)/python -m pytest $(ARGS)

coverage: $(READY)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

soak: $(READY)
	$(BIN)/pykernel soak --seeds 1000 --workers 2 $(ARGS) \
	  tests/soak/test_migration_soak.py::test_guests_that_submit_all_the_time

bench: $(READY)
	$(BIN)/python -m pykernel.tools.bench $(ARGS)

conformance: $(READY)
	$(BIN)/python tests/conformance/compare.py $(ARGS)

clean:
	rm -rf $(VENV) build dist htmlcov .coverage* *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
