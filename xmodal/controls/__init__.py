"""Controls: each mechanism of the main job where it must help, where it must not, and in between. The map.

Each file imports only from those above it:

    world        synthetic patients and their tokens, with the dials of the phantom
    training     a short training of the package's own model and objective
    verdict      what a control is, its table, and the rule that says "holds"
    domains      another site: IRM, GroupDRO, MixStyle, CORAL, DANN, adaptation, adapters
    pairs        two modalities: alignment, lesions, decoder, attention
    heads        labels and probabilities: ordinal, sets, task weights, temperature, conformal sets
    power        patients that a domain needs to tell two methods apart
    table        all of them, with the bounds that were written before the results
"""
