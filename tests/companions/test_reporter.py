"""The report decoder: it learns to write what it is given, and beam search is no worse than greedy search."""
import pytest
import torch

from xmodal.companions import reporter
from xmodal.config import Problem

REPORTS = ["There is a mass of 12 mm.", "No mass.", "There are calcifications, BI-RADS 4."]


def log_p(decoder, row, v):
    """Mean log probability of the tokens of a row after START, without padding."""
    likely = decoder(row[None, :-1], v[None]).log_softmax(2)[0]
    each = torch.gather(likely, 1, row[1:, None])[row[1:] != reporter.PAD]
    return float(each.sum().detach()) / max(len(each), 1)


def check_searches(decoder, v):
    """Width 1 is greedy search. Returns the greedy rows and those of beam search."""
    rows = reporter.greedy(decoder, v)
    for z, row in zip(v, rows):
        narrow = reporter.beam(decoder, z, 1)
        assert torch.equal(narrow, row[:len(narrow)])
    return rows, [reporter.beam(decoder, z, 8) for z in v]


def test_the_decoder_learns_to_say_what_it_is_given_and_beam_search_is_no_worse():
    vocabulary = reporter.Vocabulary(REPORTS)
    assert vocabulary.decode(vocabulary.encode(REPORTS, 16)[0]) == reporter.tokenize(REPORTS[0])
    torch.manual_seed(0)
    decoder = reporter.Decoder(len(vocabulary), 16, 2, 1, 16)
    v = torch.eye(3, 16)
    numbers = vocabulary.encode(REPORTS, 16)
    check_searches(decoder, v)
    adam = torch.optim.Adam(decoder.parameters(), 0.02)
    for _ in range(150):
        loss = reporter.language_loss(decoder, numbers, v)
        adam.zero_grad()
        loss.backward()
        adam.step()
    rows, best = check_searches(decoder, v)
    for z, row, better in zip(v, rows, best):
        assert log_p(decoder, better, z) >= log_p(decoder, row, z) - 1e-4
    assert list(map(vocabulary.decode, rows)) == list(map(reporter.tokenize, REPORTS))
    assert loss < 0.1


def test_reports_without_words_have_no_vocabulary():
    with pytest.raises(Problem, match="empty"):
        reporter.Vocabulary(["", " "])
