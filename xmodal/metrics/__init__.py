"""What is measured: numpy in, small named results out. The map of the wing:

    calibration  probabilities that mean what they say: reliability, decision curves, conformal sets
    detection    where the lesion is: overlap, average precision, free-response curves
    embeddings   how modalities and classes lie in the shared space
    readers      several readers reading the same cases
    selection    which run and step counts, without a look at the target
    survival     discrete-time hazards; concordance and Brier score weighted for censoring
    weighted     plain measures and their weighted twins side by side
"""
