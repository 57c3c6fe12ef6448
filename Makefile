# Needs make and Python >= 3.11; everything else goes into .venv. `make` alone lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test quick fuzz lookalikes lint format demo lab bench docs screenshots clean

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first of these that is new enough; another one: make setup PYTHON=/path/to/python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in python3.11 python3.12 python3; do \
	if $$each -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then echo $$each; break; fi; done)

PIP  := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
JOBS ?= 2#     processes that share the tests
ARGS ?=#       more words for pytest: make test ARGS="-k layout"
QUICK := $(addprefix tests/,core formats streaming views networks steps/loading steps/saving test_names.py test_imports.py)
ROUNDS ?= 10#  of made-up examples: make fuzz ROUNDS=100

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(STAMP) ## make .venv and install everything, at the versions in constraints.txt

$(STAMP): pyproject.toml constraints.txt tests/mindformers-needs.txt
	@'$(PYTHON)' -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "found     $$('$(PYTHON)' --version 2>/dev/null || echo no usable python '$(PYTHON)')" >&2; \
		echo "expected  Python 3.11 or newer" >&2; \
		echo "hint      name one: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null || '$(PYTHON)' -m venv --clear $(VENV)
	@echo "Installing into $(VENV): some minutes the first time, nothing when it is up to date"
	@$(PIP) install --progress-bar off -c constraints.txt -e '.[test]'
	@$(PIP) install --progress-bar off -c constraints.txt --no-deps mindformers  # tests run parts of it; its other needs are not ours
	@rm -rf $(VENV)/mindformers-needs
	@$(PIP) install --progress-bar off --no-deps --target $(VENV)/mindformers-needs -r tests/mindformers-needs.txt
	@touch $@

test: setup lint ## lint, then every test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

quick: lint ## lint, and tests of the ground that all else stands on: under 90 s on two cores
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) -q -m 'not real_frameworks and not browser and not slow' $(QUICK) $(ARGS)

fuzz: setup ## the tests with made-up examples, again and again with others
	for round in $$(seq $(ROUNDS)); do HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) -q -m hypothesis --hypothesis-profile=others $(ARGS) || exit 1; done

lookalikes: setup ## try every text model of transformers: refused, or the same logits
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.real_frameworks.lookalikes $(ARGS)

lint: setup ## ruff, mypy and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## put the code into its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: setup ## take a small model there and back, and prove that nothing changed
	$(BIN)/python demo/demo.py

lab: setup ## open the notebooks
	$(BIN)/jupyter lab notebooks/

bench: setup ## measure speed and memory
	$(BIN)/python -m benchmarks

docs: setup ## write the generated parts of the documentation
	$(BIN)/python docs/generate.py

screenshots: setup ## take the pictures of the documentation; needs a Chromium
	$(BIN)/python docs/screenshots.py

clean: ## remove caches and built files; keeps .venv
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
