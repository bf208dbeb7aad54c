# Everything runs in .venv, made once from requirements.txt; `make clean` removes it. Without a GPU, `make demo CPU=1` and the
# like take torch's wheel for CPUs (0.2 GB) and not the one that brings 3 GB of CUDA.

PYTHON ?= python3
BIN := .venv/bin
# Triton warns at import unless this is settled.
export TRITON_DEFAULT_FP_FUSION ?= 1

# Versions to try in place of the pinned ones; "newest" is what pip offers.
pinned = $(shell sed -n 's/^$1==\([^;]*\).*/\1/p' requirements.txt)
TORCH := $(call pinned,torch)
TRITON := $(call pinned,triton)
pin = '$1$(if $(filter newest,$2),,==$2)'

# Other versions and the built package have environments that outlive the checkout.
ENVIRONMENTS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/graphrt/environments/$(shell sha256sum requirements.txt | cut -c1-12)
LANE := $(ENVIRONMENTS)/$(notdir $(PYTHON))-torch-$(TORCH)-triton-$(TRITON)$(if $(CPU),-cpu)
PACKAGE := $(ENVIRONMENTS)/$(notdir $(PYTHON))-package$(if $(CPU),-cpu)
export VERSIONS := import platform, torch, triton; \
	print(f"Python {platform.python_version()}, torch {torch.__version__}, Triton {triton.__version__}")

# With CPU=1 torch's wheel for CPUs is in the environment $1 before the other packages are, and satisfies them.
cpu_wheel = $(if $(CPU),$1/bin/python -m pip install --quiet --no-deps --retries 1 --timeout 30 \
	--extra-index-url https://download.pytorch.org/whl/cpu $(call pin,torch,$(TORCH)+cpu))

.PHONY: demo test proofs campaign bench-page kernels kernels-checked kernels-oldest browser compilers lane lane-kernels lane-kernels-ahead lane-torch lane-package lanes gpu-kit samples docs site lint clean

demo: .venv/ready
	$(BIN)/graphrt train lenet5 --epochs 10 --batch-size 64 --lr 0.05 --momentum 0.9 --seed 1 --out runs/lenet5

# What every change is tried with, in minutes: each op, pass, template and front end on the targets of this machine.
test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not interpret and not slow and not kernels and not proof"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "interpret and not proof"

# What takes long because it proves much: every op and training steps under the sanitizers, what the compiler makes of each Triton
# template, of ResNet-20's steps and of a block of GoogLeNet for each GPU that is not here, the guides from nothing to their checks;
# and, at -O3 as users compile, every op, C template and pattern, and what Hypothesis draws, which make test tries at -Og.
proofs: .venv/ready
	GRAPHRT_CFLAGS=-O3 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=12 -m "proof and not kernels"
	GRAPHRT_CFLAGS=-O3 $(BIN)/python -m pytest -n 2 --dist worksteal \
		-m "(hypothesis or at_O3) and not proof and not slow and not interpret and not kernels"

# Hours of looking for faults: random graphs on the CPU and in the interpreter, other ones each time, files that are damaged at
# random, and faults planted in the compiler, to see whether the tests find them.
campaign: .venv/ready
	$(BIN)/python -m tests.fuzz --graphs 100000 --seed $$(date +%s)
	$(BIN)/python -m tests.fuzz --graphs 2000 --seed $$(date +%s) --target interpret
	$(BIN)/python -m tests.fuzz_files --inputs 100000 --seed $$(date +%s)
	$(BIN)/python -m tests.mutation --count 200 --seed $$(date +%s)

# Every kernel of the large networks' training steps, for GPUs that are not here; GRAPHRT_ACCEPT=1 accepts new figures.
kernels: .venv/ready
	$(BIN)/python -m pytest --durations=12 -m kernels tests/test_aot.py

# Every template, op, closure and kind of network on blocks as large as a GPU's, interpreted, with each access of each program
# checked: none outside a buffer, none that another program stores (GRAPHRT_GUARD).
kernels-checked: .venv/ready
	GRAPHRT_GUARD=1 TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 --durations=12 -m interpret

# Every kernel of bench.gpu and of its tuning, in an archive for a machine with the GPU, its sources and its version of Triton:
# make gpu-kit TRITON=3.6.0, then there python -m bench.gpu --kit build/gpu-kit.tar
gpu-kit: lane
	mkdir -p build
	$(LANE)/bin/python -m bench.gpu_kit --out build/gpu-kit.tar

# The small networks and the templates on the oldest version of Triton.
kernels-oldest:
	$(MAKE) lane-kernels-ahead TRITON=3.6.0

# Kernels on another Triton: compiled ahead of time, and interpreted. make lane-kernels TRITON=3.8.0
lane-kernels: lane-kernels-ahead
	TRITON_INTERPRET=1 $(LANE)/bin/python -m pytest -n 2 -m interpret tests/kernels

lane-kernels-ahead: lane
	$(LANE)/bin/python -m pytest -n 2 -m "aot and not kernels" tests/test_aot.py tests/kernels/test_triton_aot.py

# The front end on another torch. make lane-torch TORCH=2.14.1 TRITON=3.8.0
lane-torch: lane
	$(LANE)/bin/python -m pytest -n 2 -m "not interpret and not slow and not kernels" \
		tests/test_from_torch.py tests/test_to_torch.py tests/test_torch_compile.py

lane: $(LANE)/ready
	$(LANE)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(LANE)/bin/python -c "$$VERSIONS"

# The package as it is installed: built, put into an environment of its own, tried outside the checkout.
# make lane-package PYTHON=python3.10
lane-package: $(PACKAGE)/ready
	rm -rf dist
	$(PACKAGE)/bin/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	$(PACKAGE)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz
	$(PACKAGE)/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl
	@$(PACKAGE)/bin/python -c "$$VERSIONS"
	cd $(PACKAGE) && bin/python -I $(CURDIR)/tests/installed.py

# All of them. torch's own pairs of torch and Triton: the oldest, the pinned, the last that was tried, the newest.
lanes:
	$(MAKE) lane-kernels lane-torch TORCH=2.11.0 TRITON=3.6.0
	$(MAKE) lane-kernels lane-torch
	$(MAKE) lane-kernels lane-torch TORCH=2.14.1 TRITON=3.8.0
	$(MAKE) lane-kernels lane-torch TORCH=newest TRITON=newest
	for version in 3.10 3.11 3.12 3.13; do $(MAKE) lane-package PYTHON=python$$version || exit 1; done

# docs/fusion_results.md with its plots, from a run on this machine, which should be idle: a third of the patterns, some of every
# family, with gradients beside their peers (jax where it is installed), and two of them stage by stage. Begins no pattern after 20
# minutes; PAGE='*' MINUTES=300 measures all.
PAGE ?= conv_bias_relu,conv_bn_relu_train,depthwise_separable,inception_block,squeeze_excite,residual_basic,linear_bias_gelu,swiglu,$\
	lora,rms_norm_linear,int8_weights,layer_norm,group_norm_silu,dropout_add_layer_norm,softmax,cross_entropy,attention_causal,$\
	lstm_cell,adam,elementwise_chain_20
STAGED ?= conv_bn_relu_train,dropout_add_layer_norm
MINUTES ?= 20
PROCESSES ?= 5

bench-page: .venv/ready
	rm -f bench/results/fusion.jsonl
	$(BIN)/graphrt bench fusion --filter "$(PAGE)" --backward --peers torch,torch.compile,jax --processes $(PROCESSES) \
		--seconds 3 --minutes $(MINUTES) --save bench/results/fusion.jsonl
	$(BIN)/graphrt bench fusion --filter "$(STAGED)" --backward --ablate cumulative --processes $(PROCESSES) \
		--seconds 5 --minutes 3 --save bench/results/fusion.jsonl
	$(BIN)/graphrt bench fusion --read bench/results/fusion.jsonl --md docs/fusion_results.md --png docs/images/fusion

samples: .venv/ready
	GRAPHRT_CFLAGS=-O3 $(BIN)/python -m pytest -m slow

docs: .venv/ready
	$(BIN)/python -m graphrt.ops.document > docs/ops.md
	$(BIN)/python -m graphrt.frontends.onnx.document > docs/onnx_coverage.md
	$(BIN)/python -m graphrt.frontends.torch.document > docs/torch_coverage.md

# Other C compilers give the same bits: those of Debian that are not here are installed, elsewhere any on the path will do. What is
# missing is skipped by its name.
compilers: .venv/ready
	command -v gcc-11 clang || { apt-get update -qq && apt-get install -qq --no-install-recommends gcc-11 clang; } || true
	$(BIN)/python -m pytest -n 2 -rs -m proof tests/test_compilers.py

# A browser without a window, which tests of program.report drive; on other systems than Debian any Chromium on the path will do.
browser: .venv/ready
	$(BIN)/python -m pip install --quiet "playwright>=1.48"
	command -v chromium-headless-shell chromium chromium-browser google-chrome || \
		{ apt-get update -qq && apt-get install -qq --no-install-recommends chromium-headless-shell; }

# The documentation site in build/site, without a warning.
site: .venv/ready
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site

lint: .venv/ready
	$(BIN)/ruff check graphrt kernels tests bench examples docs/conf.py
	$(BIN)/ruff format --check graphrt kernels tests bench examples docs/conf.py
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info runs

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(call cpu_wheel,.venv)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# Triton 3.6's interpreter takes arrays of one element for numbers, which NumPy 2.4 refuses.
older_numpy = $(if $(filter 3.6.%,$(TRITON)),'numpy<2.4')

# A wheel of torch for GPUs takes its own Triton; one for CPUs requires none, and any goes with it.
$(LANE)/ready: requirements.txt
	$(PYTHON) -m venv $(LANE)
	$(call cpu_wheel,$(LANE))
	grep -v -E '^(torch|triton)==' requirements.txt > $(LANE)/requirements.txt
	$(LANE)/bin/python -m pip install --quiet -r $(LANE)/requirements.txt $(call pin,torch,$(TORCH))
	$(LANE)/bin/python -m pip install --quiet --upgrade --no-deps $(call pin,triton,$(TRITON)) $(older_numpy)
	touch $@

$(PACKAGE)/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(PACKAGE)
	$(call cpu_wheel,$(PACKAGE))
	$(PACKAGE)/bin/python -m pip install --quiet -r requirements.txt
	touch $@
