# make bench: virtual environment, installation and the benchmark suite. make test: lint, types and tests.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed
# The CPU build of PyTorch is enough without a GPU; requirements/cpu.txt keeps pip from pulling CUDA with it.
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo yes)
EXTRAS := dev,$(if $(GPU),gpu,rtx)
CONSTRAINT := $(if $(GPU),,-c requirements/cpu.txt)
ARGS ?=

.PHONY: bench test lint types clean
bench: $(STAMP)
	$(VENV)/bin/python -m pytest bench/ --benchmark-only $(ARGS)

test: lint types
	$(VENV)/bin/python -m pytest tests/ $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

types: $(STAMP)
	$(VENV)/bin/python -m mypy

# A PyTorch that is already in the environment stays; otherwise it comes first, so that nothing else chooses one.
$(STAMP): pyproject.toml requirements/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -c "import torch" 2>/dev/null || $(VENV)/bin/pip install -q $(CONSTRAINT) torch
	$(VENV)/bin/pip install -q $(CONSTRAINT) -e ".[$(EXTRAS)]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) plugin/build
