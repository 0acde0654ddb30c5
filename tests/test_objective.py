"""The objective: its memory of other patients, and what alignment can learn."""
import torch

from xmodal.losses import info_nce
from xmodal.objective import EMPTY, Memory


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
