# `make demo`, `make test`, `make experiment`: each makes its own environment, installs, and runs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= runs/demo
EXPERIMENT ?= runs/experiment_phantom

.PHONY: demo experiment site test chaos audit lint wheel clean
demo: $(VENV)/.installed
	$(BIN)/cardiojax demo --out $(OUT)

experiment: $(VENV)/.installed
	$(BIN)/cardiojax build phantom --data-dir $(EXPERIMENT)/data
	$(BIN)/cardiojax experiment --preset tiny --first phantom/dsb_like --second phantom/ukb_like --data-dir $(EXPERIMENT)/data --out $(EXPERIMENT)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

chaos: $(VENV)/.installed-test
	$(BIN)/python -W ignore -m tests.chaos 50 --commands predict build "build synthetic" "train sfera"

audit: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/pyright

site: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[docs]'
	$(BIN)/mkdocs build

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build --wheel

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

clean:
	rm -rf $(VENV) build dist *.egg-info
