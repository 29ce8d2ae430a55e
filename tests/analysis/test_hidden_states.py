import torch

from repa.analysis.hidden_states import pooled_hidden_states
from repa.data import PreparedDataset
from repa.diffusion import Interpolant
from repa.models import SiT


def test_states_do_not_depend_on_the_batch(emoji: PreparedDataset) -> None:
    torch.manual_seed(0)
    model = SiT(input_size=32, patch_size=8, in_channels=3, hidden_size=32, depth=2, num_heads=2,
                num_classes=emoji.num_classes)  # fmt: skip
    torch.nn.init.normal_(model.blocks[0].adaLN_modulation[1].weight, std=0.1)

    def states(indices: range, batch_size: int, depth: int = 1, time: float = 0.5) -> torch.Tensor:
        return pooled_hidden_states(
            model, emoji, indices, depth, Interpolant(), time, batch_size=batch_size
        )

    whole = states(range(10), 10)
    assert whole.shape == (10, 32)
    torch.testing.assert_close(whole, states(range(10), 3))
    torch.testing.assert_close(whole[5:], states(range(5, 10), 4))
    assert not torch.allclose(whole, states(range(10), 10, time=0.9))


def test_states_are_those_of_the_captured_block(emoji: PreparedDataset) -> None:
    torch.manual_seed(0)
    model = SiT(input_size=32, patch_size=8, in_channels=3, hidden_size=32, depth=3, num_heads=2,
                num_classes=emoji.num_classes)  # fmt: skip
    seen = []
    model.blocks[1].register_forward_hook(lambda *call: seen.append(call[-1].mean(1)))
    states = pooled_hidden_states(model, emoji, range(4), 2, Interpolant(), time=0.0)
    torch.testing.assert_close(states, seen[0])
