# Every target works from a fresh clone: .venv is made when it is missing or older than pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow lint docs clean

setup: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -m mhc_vision.demo

test: setup
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -m slow

# the variable silences what the theme has to say about its successor
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs site build dist .mypy_cache .pytest_cache .ruff_cache
