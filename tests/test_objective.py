"""The objective: its memory of other patients, and what alignment can learn."""
import torch

from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY
from xmodal.losses import info_nce
from xmodal.methods import Method
from xmodal.objective import EMPTY, Memory, Objective


def test_the_memory_holds_the_last_bags_and_gives_those_of_other_patients():
    memory = Memory(3, 2)
    z = torch.arange(8.0).reshape(4, 2)
    features, ids = memory.beside(z[:2], torch.tensor([5, 6]))
    assert ids.tolist() == [5, 6] and torch.equal(features, z[:2]), "an empty memory adds nothing"
    memory.add(z[:2], torch.tensor([5, 6]))
    memory.add(z[2:], torch.tensor([7, 8]))
    assert memory.ids.tolist() == [7, 8, 5], "the oldest goes first"
    features, ids = memory.beside(z[:1], torch.tensor([7]))
    assert ids.tolist() == [7, 8, 5], "the patient's own older bag is neither positive nor negative"
    assert torch.equal(features, torch.stack([z[0], z[3], z[0]]))


def test_a_patient_whose_label_is_open_is_not_remembered():
    memory = Memory(3, 2)
    memory.add(torch.ones(2, 2), torch.tensor([-1, 4]))
    assert memory.ids.tolist() == [4, EMPTY, EMPTY]


def test_remembered_patients_are_further_negatives():
    """With one candidate the loss is 0; each remembered patient at cosine 0 adds one e^0 to the
    denominator."""
    z = torch.tensor([[1.0, 0]])
    memory = Memory(8, 2)
    memory.add(torch.tensor([[0.0, 1], [0, -1]]), torch.tensor([2, 3]))
    candidates, ids = memory.beside(z, torch.tensor([1]))
    loss = info_nce(z, candidates, torch.tensor([1]), ids, tau=1.0)
    assert torch.isclose(loss, -torch.log(torch.e ** torch.tensor(1.0) / (torch.e ** torch.tensor(1.0) + 2)))


def test_without_the_lesion_term_alignment_is_that_of_bags_alone():
    bags = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([1, 2, 3])
    outlined = torch.tensor([True, False, False])
    y = {MAMMOGRAPHY: {"bag_id": ids, "id": ids, "mask": outlined[:, None, None]},
         HISTOPATHOLOGY: {"bag_id": ids}}
    out = {MAMMOGRAPHY: 0, HISTOPATHOLOGY: 0, "bags": dict(zip((MAMMOGRAPHY, HISTOPATHOLOGY), bags)),
           "lesion": -bags[1, :1]}                          # as far from the patient's tissue as can be
    of_bags = info_nce(*bags, ids, ids, symmetric=True)
    of_lesions = info_nce(out["lesion"], bags[1], ids[:1], ids)
    losses = [Objective(4, 2, Method(align=1, lesion=lesion)).alignment(out, y) for lesion in (False, True)]
    assert torch.isclose(losses[0], of_bags) and torch.isclose(losses[1], (of_bags + of_lesions) / 2)
    assert not torch.isclose(losses[0], losses[1]), "or the test could not fail"
