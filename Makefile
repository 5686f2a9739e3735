# Everything runs in .venv, made on the first call. PYTHON=python3.12 make ... picks another one.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
ARGS ?=

.PHONY: help train test lint format shots soak clean
help:  ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/.made: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("navsynth needs Python 3.11 or newer: PYTHON=... make") if sys.version_info < (3, 11) else 0'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade 'pip>=25.3'
	$(RUN) -m pip install --quiet -e '.[dev]'
	touch $@

train: $(VENV)/.made  ## demo footage, then the main job: a model learns, a report opens
	$(RUN) -m launch.quickstart $(ARGS)

test: $(VENV)/.made  ## every test this machine can run (slow groups included)
	$(RUN) -m pytest -n 4 --dist loadgroup -q $(ARGS)

lint: $(VENV)/.made  ## format, lint and types
	$(RUN) -m ruff format --check . && $(RUN) -m ruff check . && $(VENV)/bin/pyright

format: $(VENV)/.made  ## write the house format
	$(RUN) -m ruff format . && $(RUN) -m ruff check --fix .

shots: $(VENV)/.made  ## the pictures of the report in docs/, from a run of the demo or ARGS=RUN
	$(RUN) -m tests.support.shots $(ARGS)

bench-%: $(VENV)/.made  ## bench-step, -quality, -stream, -dictionary ...: see benchmarks/
	$(RUN) -m benchmarks.$(subst -,_,$*) $(ARGS)

soak: $(VENV)/.made  ## 200 random kills, and what was lost
	$(RUN) -m launch.chaos --kills 200 $(ARGS)

clean:  ## the environment and caches; never runs or data
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
