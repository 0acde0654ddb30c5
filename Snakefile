# The main job: from native files to figures. `make reproduce` runs it; `snakemake -n --cores 2` shows what is left to do.
# A step's last output is its executed notebook, written only when every cell went well. A failed one leaves
# <name>.partial.ipynb with the cells that ran. Deleting an output, or editing a notebook, makes its step run again.
import sys

from xmodal import config as house

PROFILE = house.profile(config.get("profile", "lesson")).name
METHODS = "erm irm groupdro mixstyle mixstyle_irm coral dann ours concat".split()  # learner.METHODS, which would load torch
DATA, RUNS = house.DATA / PROFILE, house.RUNS / PROFILE
EXECUTED = str(RUNS / "notebooks" / "{}.ipynb")  # executed copies
RUN = "OMP_NUM_THREADS={threads} " + f"{sys.executable} -m xmodal.notebook {{input.notebook}} {{output.executed}} PROFILE={PROFILE}"
TRAIN, TTA = EXECUTED.format("03_train_{held_out}_{seed}"), EXECUTED.format("04_tta_{seed}")

COMPANIONS = "11_kmat 12_mirror 13_rfpmss 14_fusion".split()

workdir: house.HOME

wildcard_constraints: held_out="|".join(house.DOMAINS), seed=r"\d+", companion="|".join(COMPANIONS)

rule reproduce:
    input: [EXECUTED.format(name) for name in ("05_evaluate", "06_interpret", "00_start_here")]

rule download:
    input: notebook="notebooks/01_download.ipynb"
    output: executed=EXECUTED.format("01_download")
    resources: mem_mb=2000
    shell: RUN + " WORKERS={threads}"

rule preprocess:
    input: rules.download.output, notebook="notebooks/02_preprocess.ipynb"
    output: DATA / "cohort.parquet", executed=EXECUTED.format("02_preprocess")
    resources: mem_mb=2000
    shell: RUN + " WORKERS={threads}"

rule pretrain:
    input: notebook="notebooks/03a_pretrain.ipynb"
    output: RUNS / "pretrained" / "done", executed=EXECUTED.format("03a_pretrain")
    priority: 1  # every training waits for it; the cohort is drawn beside it
    resources: mem_mb=2500
    shell: RUN + " WORKERS={threads}"

rule train:  # all methods of one held-out domain and seed
    input: rules.preprocess.output, rules.pretrain.output, notebook="notebooks/03_train.ipynb"
    output: [RUNS / method / "{held_out}" / "seed_{seed}" / "done" for method in METHODS], executed=TRAIN
    priority: 1  # no core waits for the last fold while another adapts
    resources: mem_mb=2500
    shell: RUN + " HELD_OUT={wildcards.held_out} SEED={wildcards.seed}"

rule tta:  # ours on every held-out domain of one seed
    input: expand(TRAIN, held_out=house.DOMAINS, allow_missing=True), notebook="notebooks/04_tta.ipynb"
    output: executed=TTA
    resources: mem_mb=2500
    shell: RUN + " SEED={wildcards.seed}"

rule evaluate:
    input: expand(TTA, seed=house.SEEDS), notebook="notebooks/05_evaluate.ipynb"
    output: executed=EXECUTED.format("05_evaluate")
    resources: mem_mb=2500
    shell: RUN

rule interpret:
    input: expand(TTA, seed=house.SEEDS), notebook="notebooks/06_interpret.ipynb"
    output: executed=EXECUTED.format("06_interpret")
    resources: mem_mb=2500
    shell: RUN

rule start:
    input: expand(TRAIN, held_out=house.DOMAINS, seed=house.SEEDS), notebook="notebooks/00_start_here.ipynb"
    output: executed=EXECUTED.format("00_start_here")
    resources: mem_mb=2500
    shell: RUN

rule companions:  # no part of the main job: `make companions`
    input: expand(EXECUTED.format("{companion}"), companion=COMPANIONS)

rule companion:
    input: notebook="notebooks/{companion}.ipynb"
    output: executed=EXECUTED.format("{companion}")
    resources: mem_mb=2500
    shell: RUN
