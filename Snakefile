# The main job: from native files to figures. `make reproduce` runs it; `snakemake -n --cores 2` shows what is left to do.
# A step's last output is its executed notebook, written only when every cell went well. A failed one leaves
# <name>.partial.ipynb with the cells that ran. Deleting an output, or editing a notebook, makes its step run again.
# One job trains all methods of a fold, which saves a laptop the start of many kernels. With `--config jobs=methods` each method
# of each fold is a job of its own, so that a cluster trains them side by side and a lost node costs one training (profiles/).
# Snakemake deletes the outputs of a step before it runs that again, but those named `update`: a run that is done with the same
# settings, cohort and encoder is loaded, and a training that was cut off goes on. `snakemake --report` shows what a finished run took.
import sys

from xmodal import config as house

profile = house.profile(config.get("profile", "lesson"))
PROFILE = profile.name
METHODS = "erm irm groupdro mixstyle mixstyle_irm coral dann ours concat".split()  # learner.METHODS, which would load torch
FIRST = str(house.SEEDS[0])  # in this seed alone: ours on less data (all of learner.METHODS), and the networks among the baselines
DATA, RUNS = house.DATA / PROFILE, house.RUNS / PROFILE
EXECUTED = str(RUNS / "notebooks" / "{}.ipynb")  # executed copies
SPENT = str(RUNS / "benchmarks" / "{}.tsv")  # seconds and memory that a step took
RUN = "OMP_NUM_THREADS={threads} " + f"{sys.executable} -m xmodal.runtime.notebook {{input.notebook}} {{output.executed}} PROFILE={PROFILE}"
TRAIN, TTA = EXECUTED.format("03_train_{held_out}_{seed}"), EXECUTED.format("04_tta_{seed}")
BASELINES = EXECUTED.format("03b_baselines_{which}")
ONE, DONE = EXECUTED.format("03_train_{held_out}_{seed}_{method}"), str(RUNS / "{method}" / "{held_out}" / "seed_{seed}" / "done")
ALONE = METHODS if config.get("jobs") == "methods" else []  # methods with jobs of their own
CPU, GPU = {"mem_mb": 2500, "runtime": 120}, {"mem_mb": 2500, "runtime": 120}  # megabytes and minutes of a job
if profile.device == "cuda":
    CPU, GPU = {"mem_mb": 16000, "runtime": 4320}, {"mem_mb": 32000, "runtime": 2880, "gpu": 1}

COMPANIONS = "11_kmat 12_mirror 13_rfpmss 14_fusion".split()

workdir: house.HOME

wildcard_constraints:
    held_out="|".join(house.DOMAINS), seed=r"\d+", which="classic|networks", method="|".join(METHODS), companion="|".join(COMPANIONS)

rule reproduce:  # what no later step would miss is named too, so that it is made again where it was deleted
    input:
        [EXECUTED.format(name) for name in ("05_evaluate", "06_interpret", "00_start_here")], DATA / "cohort.parquet",
        expand([DONE, TRAIN, TTA], method=METHODS, held_out=house.DOMAINS, seed=house.SEEDS)

rule download:
    input: notebook="notebooks/01_download.ipynb"
    output: executed=EXECUTED.format("01_download")
    retries: 2  # for the network; any other step fails again as it failed, so only where nodes get lost are all retried (profiles/)
    benchmark: SPENT.format("01_download")
    resources: **CPU
    shell: RUN + " WORKERS={threads}"

rule preprocess:
    input: rules.download.output, notebook="notebooks/02_preprocess.ipynb"
    output: DATA / "cohort.parquet", executed=EXECUTED.format("02_preprocess")
    benchmark: SPENT.format("02_preprocess")
    resources: **CPU
    shell: RUN + " WORKERS={threads}"

rule pretrain:
    input: notebook="notebooks/03a_pretrain.ipynb"
    output: RUNS / "pretrained" / "done", executed=EXECUTED.format("03a_pretrain")
    priority: 1  # every training waits for it; the cohort is drawn beside it
    benchmark: SPENT.format("03a_pretrain")
    resources: **CPU
    shell: RUN + " WORKERS={threads}"

rule train:  # all methods of one held-out domain and seed; those that were trained alone are loaded
    input: rules.preprocess.output, rules.pretrain.output, expand(ONE, method=ALONE, allow_missing=True), notebook="notebooks/03_train.ipynb"
    output: [] if ALONE else update(expand(DONE, method=METHODS, allow_missing=True)), executed=TRAIN
    params: methods=lambda w: "all" if w.seed == FIRST else ",".join(METHODS)
    priority: 1  # no core waits for the last fold while another adapts
    benchmark: SPENT.format("03_train_{held_out}_{seed}")
    resources: **GPU
    shell: RUN + " HELD_OUT={wildcards.held_out} SEED={wildcards.seed} METHODS={params.methods}"

rule baselines:  # the classic learners, while the encoder is pretrained, and the networks, which need what it draws
    input: rules.preprocess.output, lambda w: rules.pretrain.output if w.which == "networks" else [], notebook="notebooks/03b_baselines.ipynb"
    output: executed=BASELINES
    priority: 2  # the longest job begins first
    benchmark: SPENT.format("03b_baselines_{which}")
    resources: **GPU
    shell: RUN + " METHODS={wildcards.which}"

if ALONE:
    rule train_one:
        input: rules.preprocess.output, rules.pretrain.output, notebook="notebooks/03_train.ipynb"
        output: update(DONE), executed=ONE
        benchmark: SPENT.format("03_train_{held_out}_{seed}_{method}")
        resources: **GPU
        shell: RUN + " HELD_OUT={wildcards.held_out} SEED={wildcards.seed} METHODS={wildcards.method}"

rule tta:  # ours on every held-out domain of one seed; a run that was cut off while it was adapted has lost its `done` and is trained again
    input: expand([TRAIN, DONE], held_out=house.DOMAINS, method="ours", allow_missing=True), notebook="notebooks/04_tta.ipynb"
    output: executed=TTA
    benchmark: SPENT.format("04_tta_{seed}")
    resources: **GPU
    shell: RUN + " SEED={wildcards.seed}"

rule evaluate:
    input: expand(TTA, seed=house.SEEDS), expand(BASELINES, which=("classic", "networks")), notebook="notebooks/05_evaluate.ipynb"
    output: executed=EXECUTED.format("05_evaluate")
    benchmark: SPENT.format("05_evaluate")
    resources: **CPU
    shell: RUN

rule interpret:
    input: expand(TTA, seed=house.SEEDS), expand(BASELINES, which=("classic", "networks")), notebook="notebooks/06_interpret.ipynb"
    output: executed=EXECUTED.format("06_interpret")
    benchmark: SPENT.format("06_interpret")
    resources: **GPU
    shell: RUN

rule start:
    input: expand(TTA, seed=house.SEEDS), notebook="notebooks/00_start_here.ipynb"
    output: executed=EXECUTED.format("00_start_here")
    benchmark: SPENT.format("00_start_here")
    resources: **GPU
    shell: RUN

rule companions:  # no part of the main job: `make companions`
    input: expand(EXECUTED.format("{companion}"), companion=COMPANIONS)

rule companion:
    input: notebook="notebooks/{companion}.ipynb"
    output: executed=EXECUTED.format("{companion}")
    benchmark: SPENT.format("{companion}")
    resources: **GPU
    shell: RUN
