"""The tables behind the figures: `tables/figN.py` makes what `figures/figN.py` draws. The map of the wing:

    cases        small pictures as text, so that one CSV redraws a figure of cases
    common       what panel tables share: writing, finished runs, decided images, paired tests
    datasheet    the data sheet of a cohort: what came in, what was left out, who is where
    fig1         malignant or not, against radiomics
    fig2         how well the modalities are aligned
    fig3         each domain held out in turn; whom the model fails there
    fig4         where the lesion is
    fig5         reasoning cards; the class of a patient
    fig6         the parts of the model
    table1       the terms of the objective
"""
