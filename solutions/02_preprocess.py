"""Solutions of 02_preprocess."""
ANSWERS = {"02-1": 2 ** 1 + 2 ** 2 + 2 ** 3}    # benign, in situ and invasive; normal, 2 ** 0, is excluded


def on_both_sides(train, test):
    """Patients, not images, who are in both."""
    return len(set(train) & set(test))


ANSWERS["02-2"] = on_both_sides
