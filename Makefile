# Each target makes its own virtual environment and needs only python3 (3.11 or newer) and make.
PYTHON ?= python3
RUN    ?= runs/demo

# Large pages for the arrays, where glibc and the kernel offer them: training on a CPU is about a sixth faster.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test test-long lint bench docs clean
.DELETE_ON_ERROR:

demo: .venv/installed
	.venv/bin/frcnn demo-data $(RUN)/data
	.venv/bin/frcnn proposals --config demo --data.root $(RUN)/data --data.tfds-dir $(RUN)/prepared
	.venv/bin/frcnn train --config demo --workdir $(RUN) --data.root $(RUN)/data --data.tfds-dir $(RUN)/prepared
	.venv/bin/frcnn detect --workdir $(RUN) --out $(RUN)/detections $(RUN)/data/JPEGImages/test_0000[0-3].jpg
	@echo
	@echo "Average precision   $(RUN)/eval/metrics.json"
	@echo "Report, pictures    $(RUN)/eval/index.html, $(RUN)/eval/images/"
	@echo "Detections          $(RUN)/detections/"
	@echo "Loss over time      $(RUN)/metrics.jsonl, $(RUN)/tensorboard/"
	@echo "Checkpoints         $(RUN)/checkpoints/"

test: lint
	.venv-test/bin/pytest -n auto

# What takes minutes alone, as comparisons with PyTorch of whole networks, for which it installs that too.
test-long: .venv-test/installed-long
	.venv-test/bin/pytest -m long

lint: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .

bench: .venv/installed
	.venv/bin/python scripts/benchmark.py

# API reference from the docstrings; an error where pdoc warns.
docs: .venv/installed-docs
	.venv/bin/python scripts/api_reference.py --out build/docs

clean:
	rm -rf .venv .venv-test build *.egg-info

# The demo runs on the sources as they are here; the tests on the package as it is installed, like a user's.
.venv/installed: pyproject.toml setup.py
	@$(call make_venv,.venv)
	.venv/bin/python -m pip install --quiet --editable '.[demo]'
	@touch $@

.venv/installed-docs: .venv/installed
	.venv/bin/python -m pip install --quiet --editable '.[docs]'
	@touch $@

.venv-test/installed: pyproject.toml setup.py README.md $(shell find frcnn_jax configs -name '*.py')
	@$(call make_venv,.venv-test)
	rm -rf build/lib build/bdist.*
	.venv-test/bin/python -m pip install --quiet --upgrade '.[dev]'
	@touch $@

.venv-test/installed-long: .venv-test/installed
	.venv-test/bin/python -m pip install --quiet '.[long]'
	@touch $@

define make_venv
$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)" if sys.version_info < (3, 11) else 0)' && \
{ test -x $(1)/bin/python || { echo "Making $(1) and installing into it (a few minutes the first time)"; \
  $(PYTHON) -m venv $(1) || { rm -rf $(1); exit 1; }; }; }
endef
