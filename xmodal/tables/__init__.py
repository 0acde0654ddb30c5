"""The tables behind the figures: `tables/figN.py` makes what `figures/figN.py` draws. The map of the wing:

    cases        the rule that chooses a case, and pictures as text, so that one CSV redraws a figure of cases
    cards        reasoning cards and the maps beside them as rows: Fig. 5 a-l
    common       what tables share: writing, finished runs, decided images, AUC by run, paired tests
    adaptation   what test-time adaptation gains, and what it costs under another mix of diagnoses
    datasheet    the data sheet of a cohort: what came in, what was left out, who is where
    fig1         a-i: malignant or not, against radiomics
    fig2         a-f: how well the two modalities of a patient are aligned
    verdicts     which method is better on domains that none has seen, in numbers and in words
    fig3         a-l: each domain held out in turn, whom the model fails
    fig4         a-l: where the lesion is
    fig5         m-r: the class of a patient
    fig6         the parts of the model
    slides       slides from their tiles: AUC by slide and by tile, FROC on CAMELYON16
    posthoc      temperature, sets of stated coverage, free response, simulated readers
    table1       the terms of the objective
    table2       ours without each of its parts
    table3       whether the study can tell anything: criteria and whether they are reached
"""
