# One verb, one target. Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: setup lint format test demo evaluate train gpu-check published-shapes clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup
	$(BIN)/python -m pytest

demo: setup
	$(BIN)/python -m periscope_demo

evaluate: setup
	$(BIN)/python -m periscope_demo.evaluate

gpu-check: setup
	$(BIN)/python -m periscope_demo.gpu_check

published-shapes: setup
	$(BIN)/python -m periscope_demo.published_shapes

train: setup
	$(BIN)/python -m periscope_demo.training

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
