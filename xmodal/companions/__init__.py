"""Companion systems: four published ways to bring modalities together, each one file. The map of the rooms.

Each file imports from the rooms of `xmodal` and from those above it in this list:

    study        one training loop, and results computed once and kept
    genes        curated genes, and their selection
    paired       paired patients made from known factors
    nystrom      a bag of patches read by Nystrom attention
    mil          bags of patches: baselines
    transport    Sinkhorn, several anchors a sample, fused Gromov-Wasserstein
    frozen       frozen encoders from disk, and the image-text model
    measures     retrieval ranks, harmonic means, BLEU and ROUGE
    kmat         K-MaT: prompts that cross from a high-end to a low-end modality
    mirror       MIRROR: histology with RNA, alignment and retention
    reporter     a report decoder: vocabulary, greedy and beam search
    rfpmss       RFPMSS: anchors that keep each modality's structure, reports as supervision
    fusion       loosely coupled fusion: modalities come and go without retraining

Data come from `data_scripts` (phantom studies, or public sets by folder and table); runs lie in runs/<profile>/companions/.
"""
