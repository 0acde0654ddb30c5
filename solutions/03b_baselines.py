"""Solutions of 03b_baselines."""
ANSWERS = {"03b-1": (0.9 + 0.4) / 2}    # late fusion is the mean of the probabilities


def auc(malignant, others):
    """The share of pairs in the right order; a tie counts one half."""
    wins = 0
    for a in malignant:
        for b in others:
            wins += (a > b) + (a == b) / 2
    return wins / len(malignant) / len(others)


ANSWERS["03b-2"] = auc
