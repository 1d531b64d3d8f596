# One verb, one target. Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: setup perf lint format test demo evaluate train gpu-check published-shapes clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# NVIDIA's perf_analyzer, for `periscope bench` and its tests.
perf: setup
	$(BIN)/python -m periscope_perf.install

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without perf_analyzer its tests are skipped, and say so.
test: setup
	-@$(BIN)/python -m periscope_perf.install
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
	rm -rf $(VENV) .perf build dist .mypy_cache .pytest_cache .ruff_cache
