# xmodal. `make` alone lists what can be made. Only Python 3.11, a C and C++ compiler, git and make are needed beforehand.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
UV := .uv/bin/uv
PY := .venv/bin/python
CORES ?= 2
PROFILE ?= lesson
IP ?= 127.0.0.1
PORT ?= 8888
INPUTS ?= 20000
FUZZ_SEED ?= 0
ENGINE ?= $(shell command -v docker || command -v podman || command -v buildah)
PROXIES := http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY
# An environment that exists stays what it is: for a processor (.stamp) or with CUDA (.stamp-gpu). A new one has CUDA if a card is seen.
GPU ?= $(if $(wildcard .venv/.stamp),,$(if $(wildcard .venv/.stamp-gpu),1,$(shell nvidia-smi -L > /dev/null 2>&1 && echo 1)))
STAMP := .venv/.stamp$(if $(GPU),-gpu)

# In the order in which each reads what another wrote; 00_start_here looks at the trained model, so it is run last.
NOTEBOOKS := $(patsubst %,notebooks/%.ipynb,01_download 02_preprocess 02b_pretrain 03_train 03b_baselines 04_tta 05_evaluate 06_interpret 08_your_images 00_start_here)

COMPANIONS := $(sort $(wildcard notebooks/1*.ipynb))
SNAKEMAKE = OMP_NUM_THREADS=1 $(PY) -m snakemake $@ --cores $(CORES) --resources mem_mb=5500 --rerun-incomplete --rerun-triggers mtime params \
  --keep-going --quiet rules progress host --config profile=$(PROFILE)

# Libraries have code for each kind of processor, and each sums in its own way; that for AVX2 runs nearly everywhere (xmodal.runtime.notebook.AVX2).
ifneq ($(shell grep -m 1 -o -w avx2 /proc/cpuinfo 2> /dev/null),)
export OPENBLAS_CORETYPE ?= Haswell
export ATEN_CPU_CAPABILITY ?= avx2
export ONEDNN_MAX_CPU_ISA ?= AVX2
export NPY_DISABLE_CPU_FEATURES ?= X86_V4 AVX512_ICL AVX512_SPR
endif
# A proxy that opens what it passes on signs it anew: CA names the file of its certificate, which is trusted beside the system's.
ifdef CA
ROOTS := $(firstword $(wildcard $(SSL_CERT_FILE) /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem))
$(if $(wildcard $(CA)),,$(error There is no file $(CA); CA names the certificate of the proxy))
$(shell mkdir -p build && cat $(ROOTS) "$(CA)" > build/ca.pem)
export SSL_CERT_FILE := $(CURDIR)/build/ca.pem
export PIP_CERT := $(SSL_CERT_FILE)
export REQUESTS_CA_BUNDLE := $(SSL_CERT_FILE)
endif
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONPATH := $(CURDIR)
export PYTHONNOUSERSITE := 1
# What is made depends on nothing of the user's own: neither other kernels, nor start-up files, nor a backend; and modules
# stay compiled, since to import fastai from its sources takes half a minute each time.
unexport JUPYTER_PATH MPLBACKEND PYTHONSTARTUP PYTHONDONTWRITEBYTECODE

.PHONY: help env doctor lab reproduce companions notebooks pretrain controls strengths scaling figures compare test code-test notebook-test bench fuzz faults slurm lock image container clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: $(STAMP)  ## make .venv/ from requirements.lock (a minute or two; needs the network once); with CUDA where a card is seen, or by GPU=1

.uv/.stamp-$(UV_VERSION):
	@"$(PYTHON)" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 with its venv module is needed and $(PYTHON) is not; install it, or say make env PYTHON=/path/to/python3.11."; exit 1; }
	@"$(PYTHON)" -m venv --clear .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-uv.lock
	@touch $@

.venv/.stamp .venv/.stamp-gpu: requirements.lock requirements-gpu.lock xmodal/runtime/slim.py .uv/.stamp-$(UV_VERSION)
	@test -x $(PY) -a -z "$(filter-out $@,$(wildcard .venv/.stamp*))" || $(UV) venv --quiet --clear --python .uv/bin/python .venv
	@VIRTUAL_ENV= $(UV) pip sync --quiet --python $(PY) --require-hashes requirements.lock $(if $(GPU),requirements-gpu.lock)
	@echo "$(CURDIR)" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/xmodal.pth"
	@test -n "$(GPU)" || .uv/bin/python xmodal/runtime/slim.py .venv || \
	  { echo "CUDA is installed instead."; rm -rf .venv; $(MAKE_COMMAND) --no-print-directory env GPU=1; }
	@test $@ = .venv/.stamp -a -e .venv/.stamp-gpu || touch $@

doctor: env  ## say in words what is wrong with the environment
	@$(PY) -m xmodal.runtime.doctor

# An empty JUPYTER_TOKEN means a drawn one; a user's own configuration, which might switch the token off, is not read.
lab: env  ## open the notebooks in JupyterLab, on this machine only and with a token
	@if [ "$$(id -u)" = 0 ]; then echo "The notebook server does not run as root; log in as a user (or build the container: make image)."; exit 1; fi
	@unset JUPYTER_TOKEN_FILE; JUPYTER_NO_CONFIG=1 .venv/bin/jupyter lab --ip=$(IP) --port=$(PORT) --ServerApp.root_dir="$(CURDIR)" notebooks/00_start_here.ipynb

reproduce: doctor  ## the whole paper, from native files to figures, on CORES=2 cores (lesson: 44 to 83 minutes, as fast as the machine is)
	$(SNAKEMAKE)

companions: doctor  ## the four companion systems: K-MaT, MIRROR, RFPMSS, loosely coupled fusion (lesson)
	$(SNAKEMAKE)

notebooks: env  ## execute the notebooks in place in the lesson profile, without timing and papermill metadata
	@for n in $(NOTEBOOKS) $(COMPANIONS); do echo $$n; OMP_NUM_THREADS=1 $(PY) -m xmodal.runtime.notebook $$n $$n || exit 1; done

pretrain: env  ## make the shipped encoders anew from nothing, into xmodal/weights/ (an hour and a half on one core)
	OMP_NUM_THREADS=1 $(PY) -m xmodal.runtime.notebook notebooks/02b_pretrain.ipynb build/02b_pretrain.ipynb REBUILD=True

controls: env  ## each mechanism where it must help and where it must not, into figures/controls/ (a quarter of an hour on 2 cores)
	OMP_NUM_THREADS=1 $(PY) -m xmodal.runtime.notebook notebooks/07_controls.ipynb PROFILE=$(PROFILE)

strengths: env  ## sweep the weight of each method's term on source validation, into docs/strengths.csv (after make reproduce; half an hour)
	OMP_NUM_THREADS=1 $(PY) -m xmodal.strengths

scaling: env  ## retrieval and AUC against the patients that a training has, into docs/scaling.csv (two hours)
	@test -f "$${XMODAL_HOME:-.}/data/scaling/cohort.parquet" || \
	  OMP_NUM_THREADS=1 $(PY) -m data_scripts.phantom.pretraining "$${XMODAL_HOME:-.}/data/scaling" 4380 13
	OMP_NUM_THREADS=1 $(PY) -m xmodal.scaling

figures: env  ## redraw every figure from its tables, without model or images
	$(PY) -m figures

compare: env  ## hold this run's panels against figures/reference, one by one, in build/compare.html
	@$(PY) -m figures.compare $(PROFILE)

test: env  ## every test, and beside it the notebooks of the main job compared with what is stored in them (11 to 24 minutes on 2 cores)
	@$(MAKE) --no-print-directory --jobs 2 code-test notebook-test

code-test: env  ## every test, without the notebooks
	OMP_NUM_THREADS=1 $(PY) -m pytest -q tests

notebook-test: env  ## the notebooks of the main job, executed in an empty home and compared with what is stored
	@rm -rf build/test-home
	OMP_NUM_THREADS=1 XMODAL_HOME="$(CURDIR)/build/test-home" IPYTHONDIR="$(CURDIR)/build/test-home/ipython" $(PY) -m pytest -q -x --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=1800 -p no:cacheprovider $(NOTEBOOKS)

bench: env  ## speed as ratios to named peers, as one table and build/bench.json (three minutes)
	@$(PY) tests/bench

fuzz: env  ## read 20,000 damaged files, of which none may end the process, fill the memory or raise a traceback
	OMP_NUM_THREADS=1 $(PY) tests/fuzz_campaign.py $(INPUTS) $(FUZZ_SEED)

faults: env  ## kill the nine notebooks of the main job fifty times, resume them, and compare every file (under 15 minutes on 2 idle cores)
	$(PY) tests/faults/kill.py

slurm: env  ## train through a Slurm cluster of this one machine, with faults, and compare with local cores (root on Debian)
	tests/slurm/run.sh

# What only CUDA needs goes into a file of its own; torch asks for nvidia-cuda-runtime (7 MB) without a card, too.
lock: .uv/.stamp-$(UV_VERSION)  ## write requirements.lock and requirements-gpu.lock anew from pyproject.toml
	$(UV) pip compile pyproject.toml --extra test --extra slurm --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --quiet --upgrade -o requirements.lock
	awk '/^[a-z]/ { gpu = /^(cuda|nvidia|triton)/ && !/^nvidia-cuda-runtime=/ } { print > (gpu ? "requirements-gpu.lock" : "requirements.lock.new") }' requirements.lock
	mv requirements.lock.new requirements.lock
	echo uv==$(UV_VERSION) | $(UV) pip compile - --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet -o requirements-uv.lock

image:  ## build the container image with docker, podman or buildah; CA=/path/to/ca.crt behind a proxy with a certificate of its own
	@test -n "$(ENGINE)" || { echo "docker, podman or buildah is needed to build the image; install one of them."; exit 1; }
	BUILDAH_FORMAT=docker $(ENGINE) build --tag xmodal --file Dockerfile $(if $(filter 1,$(GPU)),--build-arg GPU=1) \
	  $(if $(CA),--build-arg CA="$$(cat "$(CA)")") $(foreach name,$(PROXIES),$(if $($(name)),--build-arg $(name))) $(IMAGE_OPTIONS) .

container:  ## build it on a base made by debootstrap and use it in a browser (as root, with buildah)
	tests/container/build.sh

clean:  ## remove what tests leave; data/, runs/ and .venv/ stay
	rm -rf build .pytest_cache .snakemake *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -not -path './.uv/*' -prune -exec rm -rf {} +
