"""Companion systems: four published ways to bring modalities together. The map of the rooms.

Each file imports from the rooms of `xmodal` and from those above it in this list:

    study        one training loop, and results computed once and kept
    pictures     what the companions read: labelled pictures, patches, patients with tables; no model
    genes        curated genes, and their selection
    paired       paired patients made from known factors
    mirror_world paired patients for MIRROR, whose outcomes are not linear
    nystrom      TransMIL: a bag of patches read by Nystrom attention
    mil          ABMIL and PORPOISE: bags of patches, without and with expression
    tasks        what is asked of paired patients: subtype, survival, known factors
    transport    Sinkhorn, several anchors per sample, fused Gromov-Wasserstein
    frozen       frozen encoders from disk
    clip         the image-text model: BiomedCLIP, or a stand-in trained on phantoms
    measures     retrieval ranks, harmonic means, BLEU and ROUGE; differences over repeated folds
    prompts      prompt learning through a frozen text encoder: CoOp and its kin
    kmat         K-MaT: prompts that cross from a high-end to a low-end modality
    kmat_choice    the weights of its losses, cross-validated on the high end
    kmat_control   its control: the gap between both ends as a dial, and rules
    kmat_panels  the tables of its figure
    mirror       MIRROR: histology with RNA, alignment and retention
    mirror_rna   its RNA arm alone, on survival
    mirror_study   its runs: ablations and other methods on folds of patients
    mirror_panels  the tables of its figures
    mirror_pairs   its losses on real pairs: expression and methylation of the same samples
    mirror_control  what its parts must do on generated patients, and whether they do
    reporter     a report decoder: vocabulary, greedy and beam search
    rfpmss_data  studies of three views and a report, and their tokens
    rfpmss       RFPMSS: anchors that keep each modality's structure, reports as supervision; the model
    rfpmss_training  its losses and its training
    rfpmss_study     its runs: retrieval, written reports, the trainings of its tables
    rfpmss_tuning    fine-tuning with few labels, and rules for it
    rfpmss_panels    the tables of its figure: comparisons, attention, anchors
    rfpmss_control   its control: clusters that alignment loses and consistency is to keep
    fusion_inputs    what loosely coupled fusion reads of a cohort: columns, bags, graphs
    fusion       loosely coupled fusion: modalities come and go without retraining
    fusion_study   every subset of modalities, and baselines
    fusion_survival  its clinical arm on survival of held-out regions
    fusion_panels  the tables of its figure: scores, paired differences, missing modalities
    fusion_control   its control: a structure that only a graph sees

Data come from `data_scripts` (phantom studies, or public sets by folder and table). Runs lie in
runs/<profile>/companions/.
"""
