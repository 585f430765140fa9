from __future__ import annotations

import copy
import math
import warnings
import zipfile

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, fold, scaled_dot_product_attention

from pruning.data import Dataset
from pruning.formats.architectures import build
from pruning.formats.errors import FormatError
from pruning.formats.exported_program import Program, read_program, write_program
from pruning.graph import find_layers, trace_with_shapes
from pruning.intake import inspect_model
from pruning.iterative import prune_iteratively
from pruning.unit_flow import find_units

BATCH = ({0: torch.export.Dim("batch")},)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a class token, position embeddings, two blocks; one more attention written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8) * 0.1)
        self.blocks = nn.Sequential(Block(), Block())
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)
        self.register_buffer("scale", torch.ones(8), persistent=False)
        self.unused, self.dropout = nn.Linear(2, 2), 0.1

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        x = self.blocks(x) * self.scale
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, -1)
        x = x + scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0).squeeze(1)
        return self.head(x[:, 0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, 2, batch_first=True, dropout=0.1, bidirectional=True)
        self.gru, self.rnn = nn.GRU(12, 5, batch_first=True), nn.RNN(5, 4, batch_first=True, bias=False)
        self.fc = nn.Linear(4 + 5, 3)

    def forward(self, x):
        x, last = self.gru(self.lstm(x)[0])
        return self.fc(torch.cat([self.rnn(x)[0][:, -1], last[0]], 1))


class Tied(nn.Module):
    """An embedding that is the head too, two layers of one weight, one layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 8, padding_idx=0), nn.Linear(8, 10, bias=False)
        self.one, self.two, self.twice = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head.weight, self.two.weight = self.embedding.weight, self.one.weight
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x):
        x = torch.relu(self.twice(torch.relu(self.twice(self.embedding(x)))))
        return self.head(self.norm(self.two(torch.relu(self.one(x))).mean(1)))


MODELS = {
    "lenet5": (lambda: build("lenet5", (1, 12, 12), 3), (1, 12, 12)),
    "resnet20": (lambda: build("resnet20", (3, 8, 8), 3), (3, 8, 8)),
    "vit": (ViT, (1, 8, 8)),
    "recurrent": (Recurrent, (3, 3)),
    "tied": (Tied, (4,)),
}


def export(model, shape, path, inputs=None):
    example = examples(model, shape, 2) if inputs is None else inputs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The tensor attributes .*_flat_weights")
        torch.export.save(torch.export.export(model, (example,), dynamic_shapes=BATCH), path)


def examples(model, shape, count, seed=0):
    draws = torch.Generator().manual_seed(seed)
    if isinstance(model, Tied):
        return torch.randint(0, 10, (count, *shape), generator=draws)
    return torch.randn(count, *shape, generator=draws)


@pytest.fixture(scope="module", params=[(name, mode) for name in MODELS for mode in (True, False)], ids=str)
def case(request, tmp_path_factory):
    """(the user's model, its program read, its shape, whether it was exported in training mode)"""
    name, training = request.param
    make, shape = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make().train(training)
    path = tmp_path_factory.mktemp("programs") / "model.pt2"
    export(model, shape, path)
    return model, read_program(path), shape, training


def train(model, x, y, steps, dropout):
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if not dropout and isinstance(module, nn.Dropout):
            module.p = 0.0
        if not dropout and isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # an export in evaluation mode leaves that of attention out
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    torch.manual_seed(5)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {key: value.clone() for key, value in model.state_dict().items()}


def test_reading_equals_the_module_that_was_exported(case) -> None:
    model, program, shape, _ = case
    assert program.input_shape == shape
    assert program.training
    theirs, ours = model.state_dict(), program.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], value) and ours[key].dtype == value.dtype for key, value in theirs.items())
    assert dict(program.named_parameters()).keys() == dict(model.named_parameters()).keys()
    x = examples(model, shape, 5, seed=1)
    was_training = model.training
    # With gradients, since without them nn.MultiheadAttention takes another, fused way, equal to 1e-6.
    assert torch.equal(program.eval()(x), model.eval()(x))
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-5, atol=1e-5)
    model.train(was_training)
    program.train()


def test_training_is_bit_equal_to_eager(case) -> None:
    model, program, shape, training = case
    x, y = examples(model, shape, 16), torch.arange(16) % 3
    was_training = model.training
    ours, our_state = train(program, x, y, 8, dropout=training)
    theirs, their_state = train(model, x, y, 8, dropout=training)
    model.train(was_training)
    assert ours == theirs
    assert all(torch.equal(our_state[key], value) for key, value in their_state.items())
    assert ours[-1] < ours[0]


def test_layers_are_torch_s_own_at_the_user_s_paths(case) -> None:
    model, program, _, _ = case
    kinds = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.Embedding, nn.Dropout, nn.RNNBase)
    ours = dict(program.named_modules(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        kind = next((kind for kind in kinds if isinstance(module, kind)), None)
        if kind is not None and path != "unused":
            assert isinstance(ours[path], kind), path


def test_a_copy_keeps_keys_ties_and_buffers(case) -> None:
    _, program, _, _ = case
    clone = copy.deepcopy(program)
    assert clone.state_dict().keys() == program.state_dict().keys()
    assert len(list(clone.parameters())) == len(list(program.parameters()))
    assert dict(clone.named_buffers()).keys() == dict(program.named_buffers()).keys()
    assert clone.input_shape == program.input_shape


def test_the_writer_s_file_loads_in_torch_and_reads_again(case, tmp_path) -> None:
    model, program, shape, _ = case
    path = tmp_path / "written.pt2"
    write_program(path, program, shape)
    assert program.training
    x = examples(model, shape, 5, seed=2)
    with zipfile.ZipFile(path) as file:
        assert not any(file.read(name) for name in file.namelist() if "sample_inputs" in name)
        assert b"stack_trace" not in file.read("written/models/model.json")
    loaded = torch.export.load(path)
    again = read_program(path)
    with torch.no_grad():
        expected = program.eval()(x)
        assert torch.equal(loaded.module()(x), expected)
        assert torch.equal(again.eval()(x), expected)
    program.train()
    assert set(loaded.state_dict) == set(program.state_dict())
    assert again.state_dict().keys() == program.state_dict().keys()


def test_tied_weights_are_one_parameter_under_every_key(tmp_path) -> None:
    export(Tied(), (4,), tmp_path / "p.pt2")
    program = read_program(tmp_path / "p.pt2")
    assert program.head.weight is program.embedding.weight
    assert program.two.weight is program.one.weight
    assert program.two.bias is not program.one.bias
    assert program.input_dtype is torch.int64
    example = torch.randint(0, 10, (2, 4))
    layers = find_layers(program, trace_with_shapes(program, example))
    assert {layer.name: layer.is_tied for layer in layers} == {
        "twice": False,
        "one": False,
        "two": True,
        "head": False,
    }


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_units_are_those_of_the_user_s_model(name, tmp_path) -> None:
    make, shape = MODELS[name]
    model, example = make(), torch.randn(2, *MODELS[name][1])
    export(model, shape, tmp_path / "p.pt2")
    program = read_program(tmp_path / "p.pt2")
    ours, theirs = find_units(program, example), find_units(model, example)
    assert [(g.name, g.size, g.layers, g.slices) for g in ours[0]] == [
        (g.name, g.size, g.layers, g.slices) for g in theirs[0]
    ]
    assert ours[1].keys() == theirs[1].keys()
    report = inspect_model(program, shape)
    assert report | {"layers": []} == inspect_model(model, shape) | {"layers": []}


@pytest.mark.parametrize(
    ("name", "granularity"),
    [
        *((name, "weight") for name in ("lenet5", "resnet20", "vit", "recurrent")),
        *((name, "unit") for name in ("lenet5", "resnet20")),
    ],
)
def test_pruning_runs_and_equals_that_of_the_user_s_model(
    name, granularity, tmp_path, make_dataset, make_recipe
) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(2)
    model = make()
    export(model.train(), shape, tmp_path / "p.pt2")
    dataset: Dataset = make_dataset(shape, 3, 32)
    recipe = make_recipe(granularity=granularity, stop={"rounds": 2})
    rounds = list(prune_iteratively(read_program(tmp_path / "p.pt2"), dataset, recipe))
    assert len(rounds) == 3
    assert rounds[-1].sparsity_actual > 0.5
    if name in ("lenet5", "resnet20"):  # torch's own attention and LSTM keep their layers from the eager tracer
        for ours, theirs in zip(rounds, prune_iteratively(model, dataset, recipe), strict=True):
            assert all(torch.equal(ours.state[key], value) for key, value in theirs.state.items())
            assert all(torch.equal(ours.masks[key], value) for key, value in theirs.masks.items())


def test_numbers_that_json_does_not_have_are_read(tmp_path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.constant = torch.tensor([True, False, False, False])

        def forward(self, x):
            return torch.softmax(self.fc(x).masked_fill(self.constant, -math.inf), 1).clamp_min(0.0) * 2

    model = Masked()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(model, (4,), tmp_path / "p.pt2")
    program = read_program(tmp_path / "p.pt2")
    x = torch.randn(3, 4)
    assert torch.equal(program(x), model(x))
    assert program.state_dict().keys() == model.state_dict().keys()


def test_the_user_s_program_is_refused_with_its_place_and_the_remedy(tmp_path) -> None:
    class Depth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            keep = torch.rand(x.shape[0], 1) if self.training else torch.ones(1)
            return self.fc(x * keep)

    class Sorts(Depth):
        def forward(self, x):
            return self.fc(torch.sort(x, 1).values)

    path = tmp_path / "p.pt2"
    export(Depth().train(), (4,), path)
    with pytest.raises(FormatError, match=r"random.*model\.eval\(\).*test_exported_program\.py, line \d+, in forward"):
        read_program(path)
    export(Depth().eval(), (4,), path)
    assert isinstance(read_program(path), Program)
    export(Sorts(), (4,), path)
    with pytest.raises(FormatError, match=r"'sort\.default'.*test_exported_program\.py, line \d+, in forward"):
        read_program(path)
    torch.export.save(torch.export.export(nn.Sequential(nn.Linear(4, 2)), (torch.zeros(2, 4),)), path)
    with pytest.raises(FormatError, match=r"a batch of exactly 2.*dynamic_shapes"):
        read_program(path)


def test_dropout_in_place_stays_so_and_folding_is_read(tmp_path) -> None:
    """What else reads the dropped tensor sees it dropped, as in the user's module."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.dropout, self.head = nn.Linear(8, 16), nn.Dropout(0.5, inplace=True), nn.Linear(16, 3)

        def forward(self, x):
            x = self.fc(x)
            y = self.dropout(x) + x
            return self.head(fold(y.unsqueeze(-1), (4, 4), (4, 4)).flatten(1))

    model = Network().train()
    export(model, (8,), tmp_path / "p.pt2")
    program = read_program(tmp_path / "p.pt2")
    assert isinstance(program.dropout, nn.Dropout)
    x = torch.randn(5, 8)
    for seed in range(3):
        torch.manual_seed(seed)
        theirs = model(x)
        torch.manual_seed(seed)
        assert torch.equal(program(x), theirs)
    assert torch.equal(program.eval()(x), model.eval()(x))
