# The venv is made once; `make sweep` and `make test` are the README's two commands.
BIN := .venv/bin

.PHONY: install sweep smoke test check audit format docs

install:
	python3 -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'

sweep:
	$(BIN)/python -m jepa_ray.sweep sweeps/grid.yaml

smoke:
	$(BIN)/python -m jepa_ray.sweep sweeps/smoke.yaml

test:
	$(BIN)/pytest

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit:
	$(BIN)/python .ci/audit.py

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs:
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"
