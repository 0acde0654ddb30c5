"""Real pairs of two modalities that need no slide: expression and methylation of the same TCGA samples.

    root/greenelab_expression_subsampled.tsv         1,106 samples, 100 genes (Entrez numbers), not logged
    root/greenelab_methylation27k_subsampled.tsv     1,198 samples, 100 probes, beta values from 0 to 1
    root/greenelab_tcga_sample_identifiers.tsv       sample_id, cancer_type

The files are those of greenelab/mpmp (BSD-3-Clause), with `greenelab_` put before their names: samples of all
cancers drawn at random for either table, so that some hundred are in both.
"""
from pathlib import Path

import numpy as np
import pandas as pd

from xmodal.companions.pictures import Cohort
from xmodal.config import Problem

PROBES = 4      # in one patch of the bag that stands for methylation


def cohort(root):
    """`pictures.Cohort` of the samples in both tables, in the order of their names.

    expression is log2(x + 1); bags (N, 25, 4) are the probes in the order of the table, four to a patch; site
    is the kind of cancer, subtype 1 where it is of the breast. Nothing else is known. Raises `Problem` where
    a table is missing or shares too few samples.
    """
    names = ("expression_subsampled", "methylation27k_subsampled", "tcga_sample_identifiers")
    paths = [Path(root) / f"greenelab_{name}.tsv" for name in names]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise Problem(f"There is no {missing[0]} in {root}; give the folder of greenelab/mpmp's tables.")
    expression, methylation, samples = (pd.read_csv(path, sep="\t", index_col=0) for path in paths)
    both = sorted(set(expression.index) & set(methylation.index) & set(samples.index))
    if len(both) < 50:
        raise Problem(f"The tables in {root} share {len(both)} samples, too few for five folds; "
                      "give the tables as they were published.")
    probes = methylation.loc[both].to_numpy(np.float32)
    bags = probes[:, :probes.shape[1] // PROBES * PROBES].reshape(len(both), -1, PROBES)
    genes = np.log2(expression.loc[both] + 1).reset_index(drop=True)
    kind = samples.cancer_type[both].to_numpy()
    unknown = np.zeros(len(both), int)
    none = pd.DataFrame(index=range(len(both)))
    xy, tumour = np.zeros((*bags.shape[:2], 2), int), np.full(bags.shape[:2], np.nan)
    return Cohort(np.array(both), kind, bags, xy, tumour, genes, none, none, {}, (kind == "BRCA").astype(int),
                  unknown, unknown.astype(float), unknown)
