# Every target sets up .venv by itself when it is missing or when the requirements have changed.
#   make demo PYTHON=python3.12 STORAGE=/fast/disk/storage
SHELL := bash
PYTHON ?= python3
STORAGE ?= storage
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# pip would compile on one core, and the tests of packages too; it took half of the installation
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
COMPILE := $(BIN)/python -m compileall -q -j 0 -x '[/\\]tests?[/\\]' .venv >/dev/null 2>&1 || true
TORCH := $(shell sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements-pinned.txt)
TORCH_CPU := https://download.pytorch.org/whl/cpu
# processes that share the tests; those of two cores would wait a third of the time, for processes
# that they have started. pytest alone runs one after the other (-x, --pdb)
WORKERS ?= 3
# what measures a claim; the others are what these use
BENCHMARKS := $(shell grep -l "^def main" benchmarks/*.py)

.PHONY: help demo test lint bench soak clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | awk -F'|' '{printf "make %-6s %s\n", $$1, $$2}'

demo: .venv/installed  ## run all seven steps on synthetic patients and a small built-in model
	@$(BIN)/python run_files/run_all.py demo.yaml --storage "$(STORAGE)"

test: .venv/installed-dev .venv/browser  ## run the tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: .venv/installed-dev  ## check style, the floors that imports must keep, and types
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/python -m mypy

# the steps see to this themselves (`limits.prepare`)
bench: export OMP_WAIT_POLICY ?= PASSIVE
bench: .venv/installed-dev  ## run every benchmark, one after the other
	@failed=0; for script in $(BENCHMARKS); do \
	  echo "=== $$script"; $(BIN)/python "$$script" || failed=1; \
	done; exit $$failed

soak: .venv/installed-dev .venv/lm_eval/installed  ## run the long tests
	@$(BIN)/python -m pytest -m soak

clean:  ## remove .venv and caches (never the storage folder)
	rm -rf .venv .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './storage*' -prune -exec rm -rf {} +

# What the tests of the review page look through, Debian's chromium and axe-core, and the server
# that the printed scp lines are tried on. Where they cannot be had, those tests are skipped with a
# word, and the next `make test` tries again.
AXE := axe-core@4.14.1
APT := DEBIAN_FRONTEND=noninteractive apt-get install -y -qq
CHROMIUM := $(APT) chromium chromium-driver
SFTP := $(APT) --no-install-recommends openssh-client openssh-sftp-server
.venv/browser: .venv/installed-dev
	@command -v chromedriver >/dev/null || { command -v apt-get >/dev/null && \
	  { $(CHROMIUM) || sudo -n $(CHROMIUM); } >/dev/null 2>&1; } || true
	@test -x /usr/lib/openssh/sftp-server || { command -v apt-get >/dev/null && \
	  { $(SFTP) || sudo -n $(SFTP); } >/dev/null 2>&1; } || true
	@test -f .venv/axe/package/axe.min.js || { mkdir -p .venv/axe && cd .venv/axe && \
	  npm pack --silent $(AXE) && tar xzf axe-core-*.tgz package/axe.min.js && \
	  rm axe-core-*.tgz; } >/dev/null 2>&1 || true
	@if command -v chromedriver >/dev/null && test -f .venv/axe/package/axe.min.js; then touch $@; \
	else echo "The browser tests will be skipped: they need chromium, chromium-driver, npm and the" \
	  "internet"; fi

# lm-evaluation-harness in an environment of its own over this one, whose packages it finds by a
# path file. Where it cannot be had, its test is skipped with a word.
LM_EVAL := lm_eval==0.4.13
.venv/lm_eval/installed: .venv/installed-dev
	@{ $(BIN)/python -m venv .venv/lm_eval && own=.venv/lm_eval/bin/python && \
	  $(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' > \
	    "$$($$own -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/parent.pth" && \
	  $$own -m pip install --quiet --disable-pip-version-check $(LM_EVAL) \
	    -c requirements-pinned.txt && touch $@; } || \
	  echo "The test of lm-evaluation-harness will be skipped: $(LM_EVAL) cannot be installed"

.venv/installed: pyproject.toml requirements.txt requirements-pinned.txt requirements-embedded.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.10 or newer: name one that is," \
	    "like make demo PYTHON=python3.12" >&2; exit 2; }
	@echo "Setting up .venv (once; takes some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
# On Linux, PyPI's PyTorch and XGBoost bring 3.5 GB of CUDA libraries, of no use without a GPU;
# login nodes and CPU jobs have nvidia-smi without one. pip keeps one core busy; the other compiles
# what is there meanwhile.
	@wanted=requirements.txt; \
	if [ "$$(uname -s)" = Linux ] && ! nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then \
	  $(PIP) --timeout 10 --retries 1 --no-deps $(TORCH) --index-url $(TORCH_CPU) 2>/dev/null || { \
	  echo "$(TORCH_CPU) cannot be reached: taking PyTorch from the usual package index," \
	    "which may be larger"; $(PIP) --no-deps $(TORCH); }; \
	  if $(PIP) --no-deps xgboost-cpu -c requirements-pinned.txt 2>/dev/null; then \
	    wanted=.venv/requirements.txt; grep -v ^xgboost requirements.txt >$$wanted; fi; fi; \
	($(COMPILE)) & $(PIP) -r $$wanted -c requirements-pinned.txt && \
	  $(PIP) --no-deps -r requirements-embedded.txt; failed=$$?; wait; exit $$failed
	@$(COMPILE)
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-cluster.txt
	@$(PIP) -r requirements-dev.txt -c requirements-pinned.txt
	@$(COMPILE)
	@touch $@
