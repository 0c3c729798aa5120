# make demo, make test: each does all the set-up that it needs; a second call installs nothing again.
#   PYTHON=python3.12 make test     another interpreter (3.11 or newer)
#   VENV=dir make demo              another place for the virtual environment

VENV ?= .venv
PYTHON ?= $(shell sh .ci/find-python)
BIN = $(VENV)/bin

.PHONY: demo test setup clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/neonet demo

test: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest

setup: $(VENV)/.installed-test

# The stamp is as new as the last install; what the install depends on is what makes it old.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

$(BIN)/python:
	sh .ci/make-venv "$(PYTHON)" "$(VENV)"

clean:
	rm -rf "$(VENV)" neonet-demo

.PHONY: picture
picture: $(VENV)/.installed
	$(BIN)/python Resources/make_pictures.py

.PHONY: screenshots
screenshots: $(VENV)/.installed-test
	$(BIN)/python Resources/make_screenshots.py
