# Each target makes its own virtual environment and needs only python3 (3.11 or newer) and make.
PYTHON ?= python3
RUN    ?= runs/demo
# An environment is one of this version; the files that say what is in it carry its number.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: demo test test-long lint bench docs clean
.DELETE_ON_ERROR:

demo: .venv/installed-$(VERSION)
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

# Large pages for the arrays of the tests, where glibc and the kernel offer them; the commands ask for them themselves.
test test-long: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

test: lint
	.venv-test/bin/pytest -n auto --dist worksteal

# What takes minutes alone, as comparisons with PyTorch of whole networks, for which it installs that too.
test-long: .venv-test/installed-long-$(VERSION)
	.venv-test/bin/pytest -m long

lint: .venv-test/installed-$(VERSION)
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .

bench: .venv/installed-$(VERSION)
	.venv/bin/python scripts/benchmark.py

# API reference from the docstrings; an error where pdoc warns.
docs: .venv/installed-docs-$(VERSION)
	.venv/bin/python scripts/api_reference.py --out build/docs

clean:
	for folder in .venv .venv-test; do \
	  if test -e $$folder/made-by-make || ls $$folder/installed* >/dev/null 2>&1; then rm -rf $$folder; fi; done
	rm -rf build *.egg-info

# The demo runs on the sources as they are here; the tests on the package as it is installed, like a user's.
.venv/installed-$(VERSION): pyproject.toml setup.py
	@$(call make_venv,.venv)
	.venv/bin/python -m pip install --quiet --editable '.[demo]'
	@touch $@

.venv/installed-docs-$(VERSION): .venv/installed-$(VERSION)
	.venv/bin/python -m pip install --quiet --editable '.[docs]'
	@touch $@

.venv-test/installed-$(VERSION): pyproject.toml setup.py README.md $(shell find frcnn_jax configs -type f -not -path '*/__pycache__/*')
	@$(call make_venv,.venv-test)
	rm -rf build/lib build/bdist.*
	.venv-test/bin/python -m pip install --quiet --upgrade '.[dev]'
	@touch $@

.venv-test/installed-long-$(VERSION): .venv-test/installed-$(VERSION)
	.venv-test/bin/python -m pip install --quiet '.[long]'
	@touch $@

# What make made with another Python is made anew; what it did not make is left alone. In place of the mark, earlier
# versions only had the files that say what is installed.
define make_venv
$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)" if sys.version_info < (3, 11) else 0)' && \
{ test ! -e $(1) || test -e $(1)/made-by-make || ls $(1)/installed* >/dev/null 2>&1 || { \
  echo "$(1) was not made by make, which would change it: move it away"; exit 1; }; } && \
{ test ! -e $(1) || test -x $(1)/bin/python$(VERSION) || { \
  echo "$(1) is of another Python than $(VERSION) and is made anew"; rm -rf $(1); }; } && \
{ test -e $(1) || { echo "Making $(1) and installing into it (a few minutes the first time)"; \
  $(PYTHON) -m venv $(1) && touch $(1)/made-by-make || { rm -rf $(1); exit 1; }; }; }
endef
