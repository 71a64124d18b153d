# ClawAI. `make` lists what there is.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
TEST := .venvs/test
STAMPS := build/stamps
# The whole suite waits more than it computes: a process a core, each file of tests in one of them.
WHOLE := -n logical --maxprocesses 4 --dist loadfile --max-worker-restart 0
SOURCES := pyproject.toml setup.py $(wildcard sdk/build_native.py sdk/csrc/* sdk/include/* plugins/accelerator/build_ops.py plugins/accelerator/csrc/* plugins/accelerator/csrc/*/*)
MODEL ?= smollm2
QUESTION ?= What is a microkernel? Answer in two sentences.

.DEFAULT_GOAL := help
.PHONY: help demo test soak fuzz check check-c bench types install clean packages
.PHONY: test-packages offline conformance

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

packages: ## Install the Debian packages that are missing (as root or with sudo)
	@sh .ci/packages

$(STAMPS)/venv: $(SOURCES) | packages
	@echo "==> Installing ClawAI into $(VENV)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[llm,web]'
	@mkdir -p $(STAMPS) && touch $@

test-packages:
	@sh .ci/packages test

$(STAMPS)/test: $(SOURCES) | test-packages
	@echo "==> Installing ClawAI and the test tools into $(TEST)"
	@test -x $(TEST)/bin/python || $(PYTHON) -m venv $(TEST)
	@$(TEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[check]'
	@mkdir -p $(STAMPS) && touch $@

install: $(STAMPS)/venv ## Install into .venv, with `claw` in .venv/bin

demo: $(STAMPS)/venv ## Install, fetch SmolLM2 (98 MB) and let it answer a question
	@$(VENV)/bin/claw pull $(MODEL)
	@echo '==> claw run $(MODEL) "$(QUESTION)"'
	@$(VENV)/bin/claw run $(MODEL) "$(QUESTION)" --max-tokens 120 --seed 1
	@echo
	@echo "That was a real model, in a sandboxed worker, scheduled by the kernel. Next:"
	@echo "  . $(VENV)/bin/activate"
	@echo "  claw chat $(MODEL)                     talk to it"
	@echo "  claw ps                               what runs, and what it holds"
	@echo "  claw doctor                           what this box offers, and the sandbox level"
	@echo "  claw down                             stop the kernel"

test: $(STAMPS)/test ## Run the whole test suite, in an environment of its own
	@$(TEST)/bin/python -m pytest $(or $(ARGS),$(WHOLE))

soak: $(STAMPS)/test ## Run the long variants of the tests
	@$(TEST)/bin/python -m pytest -m soak $(ARGS)

offline: $(STAMPS)/test ## Run the tests in a namespace without a network, and print their share
	@$(TEST)/bin/python tests/offline.py $(ARGS)

conformance: $(STAMPS)/test ## Check the clients in C and JavaScript against the wire (needs node)
	@sh .ci/packages node
	@cd examples/client_js && npm install --no-audit --no-fund --no-package-lock --loglevel=error
	@$(MAKE) --silent -C examples/client_c
	$(TEST)/bin/python -m clawai.sdk.conformance examples/client_c/client
	$(TEST)/bin/python -m clawai.sdk.conformance node examples/client_js/client.mjs

types: $(STAMPS)/test ## Check the types (mypy --strict)
	@rm -rf build/typepath && mkdir -p build/typepath/clawai
	@for folder in kernel sdk sandbox plugins profiles; do ln -s ../../../$$folder build/typepath/clawai/$$folder; done
	@$(TEST)/bin/python -m mypy $(foreach folder,kernel sdk sandbox plugins,-p clawai.$(folder))

fuzz: $(STAMPS)/test ## Fuzz the wire for an hour (MINUTES=60), from a new seed
	@PYTHONPATH=tests $(TEST)/bin/python -m fuzz.fuzzer --minutes $(or $(MINUTES),60) $(ARGS)

check: $(STAMPS)/test types ## Lint, types, layers
	@$(TEST)/bin/python -m ruff check .
	@$(TEST)/bin/python -m ruff format --check --quiet . || { $(TEST)/bin/python -m ruff format --check .; exit 1; }
	@$(TEST)/bin/lint-imports --no-cache

check-c: $(STAMPS)/test ## Run the tests of the C ops under the address and undefined sanitizers
	@sh tests/plugins/accelerator/check_c.sh $(TEST)/bin/python $(ARGS)

bench: $(STAMPS)/test ## Measure, beside llama.cpp in the same run
	@$(TEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(TEST)/bin/claw pull $(MODEL)
	@$(TEST)/bin/claw bench decode --model $(MODEL) --threads 2 --against llama.cpp

clean: ## Remove what was built here
	@rm -rf build dist .venv .venvs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@rm -f plugins/accelerator/*.so plugins/accelerator/_ops.c sdk/*.so sdk/_native.c
