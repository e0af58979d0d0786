# What people and CI run. Needed beforehand: Python 3.11 or later, and make. Everything else goes into .venv, once.

PYTHON ?= python3
VENV ?= .venv
TESTS ?= tests
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

# Small nets are quickest on one thread, and a busy machine stays usable. No window is ever opened.
ONE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=Agg

# JOBS processes share the files; JOBS=0: one process. Laws are tried on the same examples each time; make soak draws new.
TOGETHER := -n $(JOBS) --dist loadfile --no-loadscope-reorder --hypothesis-profile=ci

.DEFAULT_GOAL := help
.PHONY: help demo test bench soak docs clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1   \2/p' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## train a small net on handwritten digits, under a plan; pictures go to out/demo
	@$(BIN)/etude demo

test: $(READY) ## style, types and all tests but the long ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(ONE) $(BIN)/python -m pytest -q -m "not soak" $(TOGETHER) $(TESTS)

bench: $(READY) ## this library beside hand-written loops, in one process
	$(ONE) $(BIN)/python bench

soak: $(READY) ## the long tests, and the laws on twenty times as many examples
	$(ONE) $(BIN)/python -m pytest -q -m soak $(TESTS)
	ETUDE_SOAK=20 $(ONE) $(BIN)/python -m pytest -q -m "not soak" $(TESTS)/laws

docs: $(DOCS_READY) ## the pages, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

clean: ## everything that was made, .venv too
	rm -rf $(VENV) build dist site out src/etude.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	@echo "Installing torch and the tools into $(VENV), once; this takes a minute or two"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
