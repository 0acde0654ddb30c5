"""Companion systems: four published ways to bring modalities together, each one file. The map of the rooms.

Each file imports from the rooms of `xmodal` and from those above it in this list:

    study        one training loop, and results computed once and kept
    pictures     what the companions read: labelled pictures, patches of a slide, patients with tables; no model
    genes        curated genes, and their selection
    paired       paired patients made from known factors
    nystrom      TransMIL: a bag of patches read by Nystrom attention
    mil          ABMIL and PORPOISE: bags of patches, with and without expression
    tasks        what is asked of paired patients: subtype, survival, known factors
    transport    Sinkhorn, several anchors a sample, fused Gromov-Wasserstein
    frozen       frozen encoders from disk, and the image-text model
    measures     retrieval ranks, harmonic means, BLEU and ROUGE
    prompts      prompt learning through a frozen text encoder: CoOp and its kin
    kmat         K-MaT: prompts that cross from a high-end to a low-end modality
    mirror       MIRROR: histology with RNA, alignment and retention
    mirror_panels  the tables of its figures
    reporter     a report decoder: vocabulary, greedy and beam search
    rfpmss       RFPMSS: anchors that keep each modality's structure, reports as supervision
    rfpmss_study  its runs: retrieval, reports, attention, anchors; tables of its panels
    fusion       loosely coupled fusion: modalities come and go without retraining
    fusion_study  every subset of modalities; survival of held-out regions

Data come from `data_scripts` (phantom studies, or public sets by folder and table); runs lie in runs/<profile>/companions/.
"""
