"""`export_model`: what it writes, what it leaves as it was, and what it says of modules that cannot be exported."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from espalier import ExportError, export_model
from torch import nn
from torch.nn.functional import cross_entropy

from pruning.formats.exported_program import read_program


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.dropout = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1))
        logits: torch.Tensor = self.fc(x)
        return logits


def around(forward):
    """A module around a linear layer 4 -> 3 with this forward(self, x)."""
    forward.__code__ = forward.__code__.replace(co_name="forward")
    return type("Around", (nn.Module,), {"__init__": _linear, "forward": forward})()


def _linear(self) -> None:
    nn.Module.__init__(self)
    self.fc = nn.Linear(4, 3)


def test_a_module_trains_and_evaluates_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, images, labels = Net().eval(), torch.randn(8, 1, 6, 6), torch.arange(8) % 3
    net.norm.train()  # a mode of its own
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    path = export_model(net, images, tmp_path / "deep" / "net.pt2")

    assert (net.training, net.norm.training) == (False, True)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == ["net.pt2"]
    program = read_program(path)
    for step in range(3):
        losses = []
        for module in (net, program):
            torch.manual_seed(step)
            module.train()
            loss = cross_entropy(module(images), labels)
            module.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter -= 0.1 * parameter.grad
            losses.append(loss.item())
        assert losses[0] == losses[1]
    assert torch.equal(net.eval()(images[:3]), program.eval()(images[:3]))
    assert net.state_dict().keys() == program.state_dict().keys()


@pytest.mark.parametrize(
    "inputs", [torch.zeros(1, 1, 6, 6), (torch.zeros(5, 1, 6, 6),), np.zeros((2, 1, 6, 6), np.float32)]
)
def test_any_batch_will_do(inputs: object, tmp_path: Path) -> None:
    program = read_program(export_model(Net(), inputs, tmp_path / "net.pt2"))
    assert program.eval()(torch.zeros(7, 1, 6, 6)).shape == (7, 3)


def test_arguments_with_defaults_keep_them(tmp_path: Path) -> None:
    net = around(lambda self, x, scale=2.0, **options: self.fc(x) * scale)
    program = read_program(export_model(net, torch.ones(2, 4), tmp_path / "net.pt2"))
    assert torch.equal(program.eval()(torch.ones(3, 4)), net.fc(torch.ones(3, 4)) * 2)


def test_an_argument_is_named_and_others_are_fixed(tmp_path: Path) -> None:
    net = around(lambda self, scale, x, shift=None: {"loss": None, "logits": self.fc(x) * scale + (shift or 0)})
    inputs = {"x": torch.ones(2, 4), "scale": 2.0, "shift": 1}
    program = read_program(export_model(net, inputs, tmp_path / "net.pt2"))
    assert torch.equal(program.eval()(torch.ones(3, 4)), net.fc(torch.ones(3, 4)) * 2 + 1)
    assert program.state_dict().keys() == net.state_dict().keys()
    assert "forward" not in vars(net), "the module is as it was"
    assert set(net(2.0, torch.ones(2, 4))) == {"loss", "logits"}


def test_a_field_of_logits_is_taken(tmp_path: Path) -> None:
    class Output(NamedTuple):
        logits: torch.Tensor
        aux: torch.Tensor

    net = around(lambda self, x: Output(self.fc(x), x) if self.training else self.fc(x))
    program = read_program(export_model(net, torch.ones(2, 4), tmp_path / "net.pt2"))
    assert torch.equal(program(torch.ones(5, 4)), net.fc(torch.ones(5, 4)))


def test_tokens_keep_their_type(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11))
    program = read_program(export_model(net, torch.zeros(1, 6, dtype=torch.int64), tmp_path / "net.pt2"))
    assert (program.input_dtype, program.input_shape) == (torch.int64, (6,))
    assert program(torch.zeros(3, 6, dtype=torch.int64)).shape == (3, 6, 11)


def test_what_torch_wraps_around_a_module_is_left_out(tmp_path: Path) -> None:
    net = around(lambda self, x: self.fc(x))
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend="eager")):
        program = read_program(export_model(wrapped, torch.ones(2, 4), tmp_path / "net.pt2"))
        assert set(program.state_dict()) == {"fc.weight", "fc.bias"}


def test_a_compiled_module_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="jit"):
        traced = torch.jit.trace(nn.Linear(4, 3), torch.zeros(2, 4))
    with pytest.raises(ExportError, match=r"TorchScript.*export the module that it was made of"):
        export_model(traced, torch.zeros(2, 4), tmp_path / "net.pt2")


def test_the_source_stays_at_home(tmp_path: Path) -> None:
    """No line of it, no folder, no sample input: only file names and line numbers."""
    sample = torch.full((2, 1, 6, 6), 0.123456789)
    with zipfile.ZipFile(export_model(Net(), sample, tmp_path / "net.pt2")) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"test_exporting.py" in content
    assert b"torch.relu(self.norm" not in content
    assert str(Path(__file__).parent).encode() not in content
    assert sample.numpy().tobytes()[:64] not in content


def test_what_draws_at_random_is_exported_evaluating(tmp_path: Path) -> None:
    def forward(self, x):
        return self.fc(x * torch.rand(x.shape[0], 1) if self.training else x)

    with pytest.warns(UserWarning, match=r"aten\.rand.*draws at random.*evaluation mode"):
        path = export_model(around(forward), torch.zeros(2, 4), tmp_path / "net.pt2")
    read_program(path)


def test_modules_that_cannot_be_exported_say_why(tmp_path: Path, subtests: pytest.Subtests) -> None:
    def branches(self, x):
        return self.fc(x) if x.sum() > 0 else -self.fc(x)

    def fixes_the_batch(self, x):
        return self.fc(x.view(2, 4))

    def loops_over_the_batch(self, x):
        return torch.stack([self.fc(x[i]) for i in range(x.shape[0])])

    def changes_its_input(self, x):
        x += 1
        return self.fc(x)

    def changes_a_view(self, x):
        x[:, 0] = 0
        return self.fc(x)

    def fails(self, x):
        return self.fc(x[:, :3])

    def reads_values(self, x):
        return self.fc(x) * x.sum().item()

    def leaves_torch(self, x):
        return self.fc(torch.from_numpy(x.numpy()))

    def has_a_block(self, x):
        with torch.no_grad():
            x = x * 2
        return self.fc(x)

    here = r"test_exporting\.py, line \d+"
    for forward, words in [
        (branches, rf"branches on the values of a tensor \(in .*{here}\); use torch\.where"),
        (fixes_the_batch, rf"only works for the batch size .* fails on a batch of 3 \(in .*{here}\).* x\.shape\[0\]"),
        (loops_over_the_batch, r"only works for the batch size .* a loop over the examples"),
        (changes_its_input, rf"changes its own input \(in .*{here}\).*x = x \+ 1"),
        (changes_a_view, rf"changes its own input \(in .*{here}\)"),
        (fails, rf"Around itself fails on example_inputs of shape \(2, 4\).*{here}\): RuntimeError"),
        (lambda self, x: self.fc(x).argmax(1), r"returns torch\.int64; return the logits, before argmax"),
        (lambda self, x: self.fc(x)[:, 0], r"returns shape \(2,\); leave the last dimension"),
        (lambda self, x: self.fc(x).mean(0), r"returns shape \(3,\) for a batch of 2.*\(batch, classes\)"),
        (has_a_block, r"has a block of its own.*write x\.detach\(\) for no_grad"),
        (reads_values, rf"reads values out of a tensor \(in .*{here}\)"),
        (leaves_torch, rf"cannot follow the module \(in .*{here}\): RuntimeError: \.numpy"),
        (
            lambda self, x: (self.fc(x), x),
            r"returns a tuple of 2 \(a tensor \(2, 3\), a tensor \(2, 4\)\);.*that alone",
        ),
        (lambda self, x: {"scores": self.fc(x)}, r"returns a dict of scores; .* or name it `logits`"),
        (lambda self, *xs: self.fc(xs[0]), r"Around\.forward takes \(\*xs\); the service calls it with one tensor"),
        (lambda self, x, y: self.fc(x + y), r"Around\.forward takes \(x, y\); .* other arguments with defaults"),
        (lambda self, *, x: self.fc(x), r"Around\.forward takes \(\*, x\)"),
        (lambda self: self.fc.weight, r"Around\.forward takes \(\); the service calls it with one tensor"),
    ]:
        with subtests.test(words=words), pytest.raises(ExportError, match=words):
            export_model(around(forward), torch.zeros(2, 4), tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == [], "nothing half-written stays"


def test_inputs_and_weights_that_will_not_do(tmp_path: Path, subtests: pytest.Subtests) -> None:
    net = around(lambda self, x: self.fc(x))
    for module, inputs, words in [
        (net, torch.zeros(4), r"unsqueeze\(0\)"),
        (net, torch.zeros(0, 4), r"give a batch"),
        (net, torch.zeros(2, 4, dtype=torch.float64), r"x\.float\(\)"),
        (net, (torch.zeros(2, 4), torch.zeros(2, 4)), r"2 inputs"),
        (net, {"x": torch.zeros(2, 4), "mask": torch.zeros(2, 4)}, r"2 inputs \(x, mask\)"),
        (net, {"flag": True}, r"0 inputs"),
        (nn.LazyLinear(3), torch.zeros(2, 4), r"weight has no shape yet.*call the module once"),
        (around(lambda self, x: self.fc(x)).half(), torch.zeros(2, 4), r"model\.float\(\)"),
    ]:
        with subtests.test(words=words), pytest.raises(ExportError, match=words):
            export_model(module, inputs, tmp_path / "net.pt2")
