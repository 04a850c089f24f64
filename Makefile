# Only python3 (3.10 or newer) is needed. COMFYUI=/path uses the ComfyUI that is there.
.PHONY: setup demo serve test test-newest lint format pictures torture bench bench-regions bench-reason bench-speed build-demo bench-training gpu-check
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

# Three processes: unit tests must not see ComfyUI, tests/comfy loads it, end-to-end tests start it as a server.
# Two workers with one thread each are faster on two cores than one process with two threads.
test: setup
	@$(PYTHON) tools/get_browser.py
	OMP_NUM_THREADS=1 $(PYTEST) tests/unit -n 2 --dist worksteal
	OMP_NUM_THREADS=1 $(PYTEST) tests/comfy -n 2 --dist loadfile
	$(PYTEST) tests/e2e

# The same tests on the newest ComfyUI, from its repository.
NEWEST := .comfyui/newest
COMFYUI_SOURCE ?= https://github.com/comfyanonymous/ComfyUI
test-newest:
	test -d $(NEWEST) || git clone -q --depth 1 $(COMFYUI_SOURCE) $(NEWEST)
	git -C $(NEWEST) pull -q --ff-only
	COMFYUI="$(CURDIR)/$(NEWEST)" $(MAKE) test

# Pyright looks for ComfyUI in .comfyui/ComfyUI, which setup without COMFYUI unpacks.
lint: setup
	$(ENV)/ruff check .
	$(ENV)/ruff format --check .
	$(ENV)/pyright

format: setup
	$(ENV)/ruff check --fix .
	$(ENV)/ruff format .

# Damaged files, kills, full disks, a server under load. make torture ARGS="kills --short" runs a small part.
torture: setup
	$(ENV)/python -m instructbrush.tools.torture $(ARGS)

# The pictures of the README and the help pages, from a running ComfyUI. ARGS="--light --out FOLDER" makes others to look at.
pictures: setup
	@$(PYTHON) tools/get_browser.py
	$(ENV)/python tools/make_pictures.py $(ARGS)

# PocketBench: every method on 25 unseen effects. SEEDS=3 runs the compared methods with three seeds. A stopped run resumes.
SEEDS ?= 1
bench: setup
	$(ENV)/python tools/benchmarks/pocket_bench.py --seeds $(SEEDS) $(ARGS)

# 60 unseen local edits: without a region, with Region Edit, and with the model that reads masks.
bench-regions: setup
	$(ENV)/python tools/benchmarks/region_bench.py $(ARGS)

# 200 unseen items with direct and indirect instructions, with and without the image.
bench-reason: setup
	$(ENV)/python tools/benchmarks/reason_bench.py $(ARGS)

# What the pack costs in time, as ratios.
bench-speed: setup
	$(ENV)/python tools/benchmarks/speed.py $(ARGS)

# Both papers' data from 300 scenes of the pocket world, with the built-in models. ARGS="--rows 1000 --kills 10"
build-demo: setup
	$(ENV)/python -m instructbrush.tools.build_demo $(ARGS)

# What the pocket editor learns from 1,000 rows of each paper's data: all three trainers, measured before and after.
bench-training: setup
	$(ENV)/python -m instructbrush.tools.build_demo --rows 620 --only reason --out output/training_data
	$(ENV)/python -m instructbrush.tools.build_demo --rows 1000 --only ultraedit --out output/training_data
	$(ENV)/python -m instructbrush.tools.build_demo.training_bench --builds output/training_data $(ARGS)

# On a GPU: tests, a server under every option for weights, the benchmark at full size. ARGS="flags" runs a part.
gpu-check: setup
	$(ENV)/python tools/gpu_check.py $(ARGS)
