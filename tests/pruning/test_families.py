"""Architectures of other packages: built here, read as an upload is, and never more than was allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pruning.formats import families
from pruning.formats.errors import FormatError
from pruning.formats.exported_program import read_program
from pruning.formats.exported_program.writing import write_trainable
from pruning.formats.names import argument_refused, family_of, installed_families, is_well_formed

MOST_BYTES = 2 << 30


class Dropping(nn.Module):
    """Drops whole branches when it trains, as stochastic depth does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(x * torch.rand(x.shape[0], 1).round() if self.training else x)
        return logits


def test_what_is_recorded_trains_unless_it_draws_at_random(tmp_path: Path) -> None:
    assert (
        write_trainable(tmp_path / "a.pt2", nn.Sequential(nn.Linear(4, 3), nn.Dropout()), torch.ones(2, 4))
        == "training"
    )
    assert write_trainable(tmp_path / "b.pt2", Dropping(), torch.ones(2, 4)) == "evaluation"
    for name in "ab":
        assert read_program(tmp_path / f"{name}.pt2").eval()(torch.ones(5, 4)).shape == (5, 3)


def test_names_are_of_a_form_that_reaches_nothing() -> None:
    assert [family_of(name) for name in ("timm:a", "lenet5", None)] == ["timm", None, None]
    assert all(map(is_well_formed, ("lenet5", "timm:resnet18", "transformers:deberta-v2")))
    for name in ("timm:", "timm:../x", "timm:hf_hub:a", "hf_hub:a", "timm:a/b", "Timm:a", "timm:a\n", "os:system"):
        assert not is_well_formed(name), name


@pytest.mark.parametrize("value", [True, "8", None, [1], 0, 8193, 1.5, float("nan")])
def test_arguments_are_numbers_within_bounds(value: object) -> None:
    assert argument_refused("transformers:bert", {"hidden_size": 8}) is None
    assert "whole number from 1 to 8192" in (argument_refused("transformers:bert", {"hidden_size": value}) or "")


def test_a_package_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "installed_families", list)
    with pytest.raises(
        FormatError, match=r"timm is not installed on this worker; pip install 'espalier-server\[timm\]'"
    ):
        families.record_family(tmp_path / "m.pt2", "timm:resnet18", None, most_bytes=MOST_BYTES)


@pytest.mark.skipif("transformers" not in installed_families(), reason="transformers is not installed here")
@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("distilbert", (8,), {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 20}),
        ("gpt2", (8,), {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20}),
        ("vit", (3, 16, 16), {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}),
    ],
)
def test_a_recorded_network_is_the_packages_own(
    tmp_path: Path, name: str, shape: tuple[int, ...], arguments: dict[str, int]
) -> None:
    path = tmp_path / "m.pt2"
    source = families.record_family(
        path, f"transformers:{name}", None, most_bytes=MOST_BYTES, input_shape=shape, arguments=arguments, seed=1
    )
    assert source["recorded"] == "training"
    program = read_program(path).eval()
    make, _ = families._PLANS["transformers"](name, shape, None, dict(arguments))
    own = make().eval()
    own.load_state_dict(program.state_dict())
    x = torch.randint(0, 20, (3, *shape)) if len(shape) == 1 else torch.randn(3, *shape)
    assert torch.equal(program(x), own(x).logits)


@pytest.mark.skipif("torchvision" not in installed_families(), reason="torchvision is not installed here")
def test_what_is_too_large_is_refused_before_it_is_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"has 645,\d+,\d+ parameters, and this worker has memory for 89,"):
        families.record_family(tmp_path / "m.pt2", "torchvision:regnet_y_128gf", None, most_bytes=MOST_BYTES)
    assert not (tmp_path / "m.pt2").exists()
