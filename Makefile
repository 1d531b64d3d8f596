# One verb, one target. Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
# The longest begin first. What a comma joins runs in one process, as it shares what is exported and served.
comma  := ,
SERVED := tests/contract/test_vectors.py,tests/contract/test_pairs.py,tests/systems/
TESTS  := $(SERVED) tests/export/ tests/perf/ tests/e2e/ tests/client/
TESTS  += $(filter-out $(subst $(comma), ,$(SERVED)),$(wildcard tests/contract/test_*.py))
TESTS  += $(filter-out $(TESTS) tests/contract/ tests/systems/,$(wildcard tests/test_*.py) $(sort $(dir $(wildcard tests/*/test_*.py))))
JOBS   ?= 2
VENV   := .venv
BIN    := $(VENV)/bin

# The versions that everything here installs on: the embedded Triton has a stub for these, and no other.
FITS   := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
# A .venv that is half made, that was moved, or whose Python is gone or another one cannot be repaired: it is made anew.
ANEW   := $(shell grep -qsF '$(CURDIR)/$(VENV)/' $(BIN)/pip && $(BIN)/python -c 'import pip; $(FITS)' 2>/dev/null || echo venv)

.PHONY: setup venv perf lint format systems test demo evaluate train gpu-check published-shapes tolerances peers bench clean

setup: $(VENV)/.installed

venv:
	@$(PYTHON) -c '$(FITS)' || { echo "make: $(PYTHON) is not there, or not Python 3.10, 3.11 or 3.12 ($$($(PYTHON) -V 2>&1 \
	| tail -n 1)). Install one of these, and name it: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.installed: pyproject.toml testing/pyproject.toml constraints.txt $(ANEW)
	@echo "installing into $(VENV): minutes, and 2.6 GB, 4.6 GB more where torch comes with CUDA (README.md)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]' -e testing
	touch $@

# NVIDIA's perf_analyzer, for `periscope bench` and its tests.
perf: setup
	$(BIN)/python -m periscope_perf.install

# Each is a hook of .pre-commit-config.yaml as well.
.PHONY: lint/ruff lint/format lint/mypy lint/hadolint

lint: lint/ruff lint/format lint/mypy lint/hadolint

lint/ruff: setup
	$(BIN)/ruff check .

lint/format: setup
	$(BIN)/ruff format --check .

lint/mypy: setup
	$(BIN)/mypy

lint/hadolint: setup
	$(BIN)/hadolint Dockerfile

# docs/systems.md and the table in README.md, from the recipes.
systems: setup
	$(BIN)/python -m periscope_export.recipes.systems_table docs/systems.md README.md

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without perf_analyzer its tests are skipped, and say so. A process for each folder: OpenVINO, TensorRT, ONNX Runtime and
# torch for half an hour in one have crashed it. JOBS of them run at a time, as graphs are traced by one thread; their lines
# come whole, in turns. The last ones name the folders that failed, and pytest's list of tests.
test: setup
	-@$(BIN)/python -m periscope_perf.install
	@rm -rf .pytest_cache; echo "$(words $(TESTS)) processes of tests, $(JOBS) at a time:"
	@$(MAKE) --no-print-directory --keep-going --jobs=$(JOBS) $(TESTS:%=tested/%) || \
	{ echo "failed:"; grep -h :: .pytest_cache/*/v/cache/lastfailed; exit 1; }

tested/%:
	@bash -o pipefail -c '$(BIN)/python -m pytest -o cache_dir=.pytest_cache/$(subst $(comma),-,$(subst /,-,$*)) $(subst $(comma), ,$*) 2>&1 | sed --unbuffered ""'

demo: setup
	$(BIN)/python -m periscope_demo

evaluate: setup
	$(BIN)/python -m periscope_demo.evaluate

gpu-check: setup
	$(BIN)/python -m periscope_perf.gpu.check

published-shapes: setup
	$(BIN)/python -m periscope_perf.published_shapes

tolerances: setup
	$(BIN)/python -m periscope_perf.tolerances

train: setup
	$(BIN)/python -m periscope_demo.training

# The peers that Periscope is compared with, each in its own environment (7 GB together); one that does not install is named by
# `make bench`, and the others go on.
PEERS := transformers colpali_engine sentence_transformers vllm

peers: $(PEERS:%=.perf/venvs/%/.installed)

.perf/venvs/%/.installed: perf/periscope_perf/peers/%.txt | setup
	$(BIN)/python -m venv --clear .perf/venvs/$*
	.perf/venvs/$*/bin/python -m pip install --quiet -r $<
	touch $@

bench: setup
	-$(MAKE) --keep-going peers
	$(BIN)/python -m periscope_perf.beside

clean:
	rm -rf $(VENV) .perf build dist .mypy_cache .pytest_cache .ruff_cache
