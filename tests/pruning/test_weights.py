from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pruning.formats.architectures import build
from pruning.formats.errors import FormatError
from pruning.formats.weights import load_into, read_state_dict


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_a_state_dict_goes_round(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    source, target = build("lenet5", seed=1), build("lenet5", seed=2)
    safetensors.torch.save_file({k: v.double() for k, v in source.state_dict().items()}, path)
    load_into(target, read_state_dict(path))
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_pickles_are_refused_unread_with_the_way_to_convert(tmp_path) -> None:
    path = tmp_path / "w.pt"
    for save in (
        lambda: torch.save({"w": Bomb()}, path),
        lambda: torch.save({"w": Bomb()}, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps(Bomb())),
    ):
        save()
        with pytest.raises(FormatError, match=r"safetensors\.torch\.save_file\(model\.state_dict\(\), path\)"):
            read_state_dict(path)


def test_damaged_and_lying_files_are_refused(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(100)}, path)
    whole = path.read_bytes()

    def lie(**changes) -> bytes:
        header = json.dumps({"w": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]} | changes}).encode()
        return len(header).to_bytes(8, "little") + header + bytes(400)

    path.write_bytes(lie())
    assert read_state_dict(path)["w"].shape == (100,)
    for content in (
        b"",
        b"hello",
        whole[:-1],
        whole + b"x",
        whole[:40],
        (1 << 62).to_bytes(8, "little") + whole[8:],
        lie(shape=[200]),
        lie(data_offsets=[0, 4000]),
        lie(dtype="F64"),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="not a readable safetensors file"):
            read_state_dict(path)


def test_what_does_not_fit_is_listed_and_the_module_unchanged() -> None:
    model = build("lenet_300_100")
    good = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    before = model.fc1.weight.detach().clone()
    for change, said in (
        (lambda s: s.pop("fc2.weight"), r"is missing: fc2\.weight"),
        (lambda s: s.update({"module.fc1.weight": torch.zeros(1)}), r"is unexpected: module\.fc1\.weight"),
        (lambda s: s.update({"fc3.bias": torch.zeros(7)}), r"fc3\.bias \(7,\) instead of \(10,\)"),
        (lambda s: s.update({"fc3.bias": torch.full((10,), float("inf"))}), r"fc3\.bias: holds NaN or infinity"),
        (lambda s: s.update({"fc3.bias": torch.zeros(10, dtype=torch.int64)}), r"fc3\.bias: has dtype torch\.int64"),
    ):
        state = dict(good)
        change(state)
        with pytest.raises(FormatError, match=said):
            load_into(model, state)
    with pytest.raises(FormatError, match="and 40 more"):
        load_into(model, good | {f"extra{n}": torch.zeros(1) for n in range(50)})
    assert torch.equal(before, model.fc1.weight)


def test_a_good_file_whose_length_begins_as_a_pickle_does_is_read(tmp_path: Path) -> None:
    """The header's length is padded to eight: sooner or later its low byte is a pickle's first, 0x80."""
    path = tmp_path / "weights.safetensors"
    for pad in range(0, 400, 8):
        header = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(56 + pad)
        if len(header) % 256 == 0x80:
            path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x07")
            assert read_state_dict(path)["w"].tolist() == [7]
            return
    raise AssertionError("no such header was made")
