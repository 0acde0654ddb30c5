"""What a run stands on. The map of the wing:

    files        files that stay whole: atomic writing, a folder held by one process
    bounds       tables and arrays whose size is looked at before they are read
    engine       what a killed run leaves: locks of its engine, processes that outlived it
    workers      processes that outlive what ends one of them
    identity     the code that a result depends on, and in what two configurations differ
    checkpoints  a training that goes on where it was cut, and results that are kept when done
    parameters   what a notebook declares, and whether what is given fits
    notebook     the papermill wrapper: copies whole, failures in one sentence
    slim         takes out of an environment what only a graphics card needs
    doctor       says in words what is wrong with the environment
    browser      one case at a time, to choose in JupyterLab
"""
