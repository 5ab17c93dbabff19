# `make demo` and `make test` set everything up by themselves; both are quick when nothing changed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SAMPLE := ../sample_data/breast_cancer

.PHONY: demo test test-all lint install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[mlflow,dev]"
	@touch $@

# Learn from benign rows, score a mixed file, compare with the labels kept aside. Everything it writes is in demo/.
demo: $(INSTALLED)
	@rm -rf demo && mkdir demo
	cd demo && ../$(BIN)/anomaly-ae fit ../configs/breast_cancer.yaml --data $(SAMPLE)_benign.csv --model model
	@echo
	cd demo && ../$(BIN)/anomaly-ae score model $(SAMPLE)_mixed.csv --keep patient --output scores.csv
	@echo
	cd demo && ../$(BIN)/anomaly-ae evaluate model $(SAMPLE)_mixed.csv --labels $(SAMPLE)_labels.csv --label malignant --report evaluation.html
	@echo
	@echo "Next: look at every row's score and blamed columns  less demo/scores.csv"
	@echo "      look at how good the model is                 demo/evaluation.html in a browser"
	@echo "      look at the model                             $(BIN)/anomaly-ae info demo/model"
	@echo "      look at the runs in a browser                 cd demo && ../$(BIN)/anomaly-ae ui"

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow and not timed" -n auto --maxprocesses 4
	$(BIN)/python -m pytest -m timed

test-all: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .mypy_cache
