# Every target builds the environment it needs; `make help` lists them.

VENV ?= .venv
PYTHON ?=
MINDSPORE_OLD ?= 2.7.0
RUNTIMES ?= .venv-runtimes
RUN := $(VENV)/bin/python -m
PARITY := --require mindspore,torch,onnxruntime
PYTEST_ARGS ?=
WORKERS ?= 2
MINUTES ?= 10
FILES ?=
SEED ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-full test-versions test-interop test-runtimes runtimes fuzz lint docs bench clean check-python

help:  ## this list
	@echo "make [TARGET] [PYTHON=python3.11] [VENV=.venv] [PYTEST_ARGS='-k name']"
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "  %-14s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.complete  ## convert an embedded checkpoint through every format, run it in the three runtimes, write a report
	$(VENV)/bin/dbnet demo

test: $(VENV)/.complete  ## the tools and the proofs, without the long cases; WORKERS=2 at a time
	$(RUN) pytest tests parity $(PARITY) -n $(WORKERS) --dist loadfile --max-worker-restart 3 $(PYTEST_ARGS)

test-full: $(VENV)/.complete  ## everything, the long cases too (all 200 images)
	$(RUN) pytest tests parity $(PARITY) -m "" -o faulthandler_timeout=7200 $(PYTEST_ARGS)

test-versions: .venv-mindspore-$(MINDSPORE_OLD)/.complete  ## the proofs on the oldest MindSpore that has a wheel
	$(<D)/bin/python -m pytest parity $(PARITY) $(PYTEST_ARGS)

test-interop: .venv-interop/.complete  ## msprobe and Polygraphy themselves, on files of `dbnet interop`
	$(<D)/bin/python -m pytest tests/test_interop_tools.py -m "" $(PYTEST_ARGS)

test-runtimes: $(VENV)/.complete runtimes  ## exported files in ONNX Runtime 1.15, OpenCV 5 and RapidOCR, each in an environment of its own
	DBNET_RUNTIMES=$(abspath $(RUNTIMES)) $(RUN) pytest $$(grep -l 'tests.runtimes' tests/*.py) -m "" $(PYTEST_ARGS)

fuzz: $(VENV)/.complete  ## spoilt files over every reader, MINUTES=10 or FILES=100000; SEED=1 for the same ones again
	$(RUN) tests.fuzzing $(if $(FILES),--files $(FILES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/.complete  ## ruff and mypy
	$(RUN) ruff check .
	$(RUN) mypy

docs: $(VENV)/.complete  ## the documentation as pages, in build/site
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict -f .ci/mkdocs.yml

bench: $(VENV)/.complete  ## times and memory against the usual ways (benchmarks/)
	for script in $$(grep -l __main__ benchmarks/*.py); do $(VENV)/bin/python "$$script" || exit 1; done

clean:  ## removes the environments, caches and build products
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments -------------------------------------------------------------------------------------------------

# Sets $$python to the first candidate that can make an environment, or says in one line what is missing. A candidate
# is run, not only looked up: a version manager's shim exists for versions that are not installed.
define find_python
candidates="$(or $(PYTHON),python3.12 python3.11 python3)"; python=; unfit=; \
for name in $$candidates; do \
  "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 || continue; \
  if "$$name" -c 'import venv, ensurepip' >/dev/null 2>&1; then python=$$name; break; fi; \
  unfit=$${unfit:-$$name}; \
done; \
if [ -z "$$python" ] && [ -n "$$unfit" ]; then \
  echo "$$unfit cannot make environments (no venv, no pip): on Debian, apt install python3-venv" >&2; exit 1; \
elif [ -z "$$python" ]; then \
  echo "no Python 3.11 or 3.12 among: $$candidates; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; \
fi
endef

# The stamp is written last, and says where: an environment that is half built, was moved with its checkout, or has
# lost its Python is made anew.
ifneq ($(shell cat $(VENV)/.complete 2>/dev/null && $(VENV)/bin/python -c pass 2>&1),$(CURDIR))
.PHONY: $(VENV)/.complete
endif

$(VENV)/.complete: pyproject.toml constraints.txt | check-python
	@$(find_python); echo "building $(@D) with $$python"; "$$python" -m venv --clear "$(@D)"
	$(@D)/bin/python -m pip install --quiet -e '.[all,test,lint,docs]' -c constraints.txt
	@echo '$(CURDIR)' > $@

.venv-mindspore-%/.complete: pyproject.toml constraints.txt | check-python
	@$(find_python); echo "building $(@D) with $$python"; "$$python" -m venv --clear "$(@D)"
	grep -v '^mindspore==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet -e '.[all,test]' 'mindspore==$*' -c $(@D)/constraints.txt
	@touch $@

.venv-interop/.complete: pyproject.toml constraints.txt | check-python
	@$(find_python); echo "building $(@D) with $$python"; "$$python" -m venv --clear "$(@D)"
	$(@D)/bin/python -m pip install --quiet -e '.[all,test,interop]' -c constraints.txt
	@touch $@

# Runtimes that cannot share our environment: another version of a package that is there already.
ONNXRUNTIME_OLD := onnxruntime==1.15.1 numpy==1.26.4 opencv-python==4.10.0.84
OPENCV_NEW := opencv-python==5.0.0.93 numpy==2.4.6
RAPIDOCR := rapidocr-onnxruntime==1.4.4 onnxruntime==1.32.0 opencv-python==5.0.0.93 numpy==2.4.6
runtimes: $(RUNTIMES)/onnxruntime-1.15/.complete $(RUNTIMES)/opencv-5/.complete $(RUNTIMES)/rapidocr/.complete

$(RUNTIMES)/onnxruntime-1.15/.complete: PACKAGES = $(ONNXRUNTIME_OLD)
$(RUNTIMES)/opencv-5/.complete: PACKAGES = $(OPENCV_NEW)
$(RUNTIMES)/rapidocr/.complete: PACKAGES = $(RAPIDOCR)
$(RUNTIMES)/%/.complete: private PYTHON := $(or $(PYTHON),python3.11)  # ONNX Runtime 1.15 has no wheel for 3.12
$(RUNTIMES)/%/.complete: Makefile constraints.txt | check-python
	@$(find_python); echo "building $(@D) with $$python"; "$$python" -m venv --clear "$(@D)"
	grep -v -E '^(numpy|onnxruntime|opencv-python)==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet $(PACKAGES) -c $(@D)/constraints.txt
	@touch $@

# A PYTHON that was asked for and cannot do it is told even where an environment stands already.
check-python:
	@$(if $(PYTHON),$(find_python),:)
