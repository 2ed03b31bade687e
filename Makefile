# make demo, make test: each sets up what it needs in .venv, the first time that it runs.
# PYTHON=python3.12 make test   takes another Python (3.10 or newer); JOBS=8 another number of processes.
PYTHON ?= python3
JOBS   ?= 2
BIN    := .venv/bin
READY  := .venv/.ready

export OMP_NUM_THREADS ?= 1
# what is imported is compiled then, and once; pip would compile it all
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test docs readme lab prepare clean
help:
	@echo 'make demo     distil the digits that ship with scikit-learn, and score the result (minutes)'
	@echo 'make test     run every page, every test and the site; report coverage'
	@echo 'make docs     build the site into _docs'
	@echo 'make lab      open the pages in JupyterLab'
	@echo 'make prepare  before a commit: clean and export the notebooks, shrink their pictures, write README.md'
	@echo 'make clean    remove what was built, but not .venv and not runs'

$(READY): settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/ogm demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --cov --cov-report=term:skip-covered --cov-fail-under=90

docs: $(READY)
	$(BIN)/python tools/docs.py

readme: $(READY)
	$(BIN)/python tools/readme.py

lab: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,lab]'
	$(BIN)/jupyter lab nbs

prepare: $(READY)
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/pictures.py
	$(BIN)/python tools/readme.py

clean:
	rm -rf _proc _docs build dist *.egg-info .coverage .coverage.* .pytest_cache .hypothesis htmlcov
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
