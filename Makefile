# Everything runs in .venv, made once from requirements.txt; `make clean` removes it.

PYTHON ?= python3
BIN := .venv/bin
# Triton warns at import unless this is settled.
export TRITON_DEFAULT_FP_FUSION ?= 1

# The oldest Triton, in an environment that outlives the checkout.
OLDEST := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/graphrt/oldest-$(shell sha256sum requirements-oldest.txt | cut -c1-12)

.PHONY: demo test kernels kernels-oldest samples docs lint clean

demo: .venv/ready
	$(BIN)/graphrt train lenet5 --epochs 10 --batch-size 64 --lr 0.05 --momentum 0.9 --seed 1 --out runs/lenet5

test: .venv/ready
	$(BIN)/python -m pytest -n 2 -m "not interpret and not slow and not kernels"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 -m interpret

# Every kernel of the large networks' training steps, for GPUs that are not here; GRAPHRT_ACCEPT=1 accepts new figures.
kernels: .venv/ready
	$(BIN)/python -m pytest --durations=12 -m kernels tests/test_aot.py

# The small networks and the templates on the oldest version of Triton.
kernels-oldest: $(OLDEST)/ready
	PYTHONPATH=$(CURDIR) $(OLDEST)/bin/python -m pytest -n 2 -m "aot and not kernels" tests/test_aot.py tests/kernels/test_triton_aot.py

samples: .venv/ready
	$(BIN)/python -m pytest -m slow tests/test_torch_samples.py

docs: .venv/ready
	$(BIN)/python -m graphrt.ops.document > docs/ops.md
	$(BIN)/python -m graphrt.frontends.onnx.document > docs/onnx_coverage.md
	$(BIN)/python -m graphrt.frontends.torch.document > docs/torch_coverage.md

lint: .venv/ready
	$(BIN)/ruff check graphrt kernels tests bench examples
	$(BIN)/ruff format --check graphrt kernels tests bench examples
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info runs

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(OLDEST)/ready: requirements-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet -r requirements-oldest.txt
	touch $@
