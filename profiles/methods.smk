# Each method of each fold as a job of its own, so that a cluster trains them side by side and a lost node costs one
# training. The Snakefile includes this with `--config jobs=methods`, as the profiles of clusters ask.
alone = expand(EXECUTED.format("03_train_{held_out}_{seed}_{method}"), method=METHODS, allow_missing=True)
step("train_one", "03_train", ready, GPU, "HELD_OUT={wildcards.held_out} SEED={wildcards.seed} METHODS={wildcards.method}",
    writes=[update(DONE)], executed="03_train_{held_out}_{seed}_{method}")
