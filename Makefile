# `make sweep` and `make test` are all the set-up there is: each makes the virtual environment if it is missing.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: install sweep smoke test test-fast test-lowest check audit format docs

install: .venv/.installed

# The stamp is newer than what it was made from, so that a changed dependency installs again.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

sweep: install
	$(BIN)/python -m jepa_ray.sweep sweeps/grid.yaml $(ARGS)

smoke: install
	$(BIN)/python -m jepa_ray.sweep sweeps/smoke.yaml $(ARGS)

test: install
	$(BIN)/pytest $(ARGS)

test-fast: install
	$(BIN)/pytest -m "not ray" $(ARGS)

# The fast tests with the lowest versions that pyproject.toml allows, in an environment of their own.
test-lowest:
	$(PYTHON) -m venv build/lowest
	$(PYTHON) .ci/lowest.py > build/lowest/constraints.txt
	build/lowest/bin/pip install -q -c build/lowest/constraints.txt -e '.[test-base]'
	build/lowest/bin/python -m pytest -m "not ray" --ignore tests/docker -p no:cacheprovider $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell . .ci/* .github/workflows/*
	$(BIN)/python .ci/prose.py

audit: install
	$(BIN)/python .ci/audit.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"
