# Only python3 (3.10 or newer) is needed to begin with. COMFYUI=/path uses an existing ComfyUI.
.PHONY: setup demo test serve lint torture test-newest bench bench-regions bench-reason bench-speed gpu-check
.DEFAULT_GOAL := setup

PYTHON ?= python3
ENV := .venv/bin
PYTEST := $(ENV)/pytest

setup:
	@$(PYTHON) tools/get_comfyui.py

demo: setup
	$(ENV)/python tools/demo.py

serve: setup
	$(ENV)/python tools/serve.py $(ARGS)

# Processes of their own: unit tests must not see ComfyUI, in-process tests load it, end-to-end tests start it. Two processes of a thread each on two cores:
# processes of several threads would get into each other's way.
test: setup
	@$(PYTHON) tools/get_browser.py
	OMP_NUM_THREADS=1 $(PYTEST) tests/unit -n 2 --dist worksteal
	OMP_NUM_THREADS=1 $(PYTEST) tests/comfy -n 2 --dist loadfile
	$(PYTEST) tests/e2e

# The same on the newest ComfyUI, from its repository: what will break is seen here before users see it.
NEWEST := .comfyui/newest
COMFYUI_SOURCE ?= https://github.com/comfyanonymous/ComfyUI
test-newest:
	git -C $(NEWEST) pull -q --ff-only || git clone -q --depth 1 $(COMFYUI_SOURCE) $(NEWEST)
	COMFYUI=$(abspath $(NEWEST)) $(MAKE) test

lint: setup
	$(ENV)/ruff check .
	$(ENV)/pyright

# What must never happen, tried many times: damaged files, kills, full disks, a server under load. make torture ARGS="kills --short" is a part of it, in small.
torture: setup
	$(ENV)/python -m instructbrush.tools.torture $(ARGS)

# PocketBench: every method on 25 unseen effects. make bench SEEDS=3 adds 95 % intervals; a stopped run goes on when it is started again.
SEEDS ?= 1
bench: setup
	$(ENV)/python tools/benchmarks/pocket_bench.py --seeds $(SEEDS) $(ARGS)

# Edits in regions: 60 unseen local edits, free-form against Region Edit and against the model that reads masks.
bench-regions: setup
	$(ENV)/python tools/benchmarks/region_bench.py $(ARGS)

# Instructions that need a thought: 200 unseen items, direct and indirect, with and without the image.
bench-reason: setup
	$(ENV)/python tools/benchmarks/reason_bench.py $(ARGS)

# What the pack costs in time, as ratios.
bench-speed: setup
	$(ENV)/python tools/benchmarks/speed.py $(ARGS)

# On a machine with a GPU: tests, a real server under every option that concerns weights, the benchmark at full size. make gpu-check ARGS="flags" runs a part.
gpu-check: setup
	$(ENV)/python tools/gpu_check.py $(ARGS)
