"""The networks that no package has ready: wrapped to take one tensor and give logits alone."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.packages import import_transformers


class Logits(nn.Module):
    """A transformers model whose output is its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens, return_dict=True).logits
        return logits


def bert(vocabulary: int, num_classes: int) -> nn.Module:
    """A BERT encoder with a classifier, made from a configuration."""
    transformers = import_transformers()
    config = transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=64, num_labels=num_classes,
    )  # fmt: skip
    return Logits(transformers.BertForSequenceClassification(config))


def gpt2(vocabulary: int, _num_classes: int) -> nn.Module:
    """A GPT-2 that predicts the next token; its head is its table of tokens."""
    transformers = import_transformers()
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=64, n_embd=64, n_layer=2, n_head=2, use_cache=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return Logits(transformers.GPT2LMHeadModel(config))


class Recurrent(nn.Module):
    """Two recurrent layers and a classifier of the last step."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], num_classes: int) -> None:
        super().__init__()
        self.recurrent = kind(8, 32, 2, batch_first=True, dropout=0.1)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.recurrent(x)[0][:, -1])
        return logits


class Encoder(nn.Module):
    """torch's own transformer encoder."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.embed(x)).mean(1))
        return logits


class Tied(nn.Module):
    """A table that is the last layer, too, and two layers of one weight."""

    def __init__(self, vocabulary: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32)
        self.one, self.two, self.hidden = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.words, self.head = nn.Linear(32, vocabulary, bias=False), nn.Linear(vocabulary, num_classes)
        self.words.weight, self.two.weight = self.embedding.weight, self.one.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.two(self.one(self.embedding(tokens)).relu()).relu()
        logits: Tensor = self.head(self.words(self.hidden(x).relu().mean(1)))
        return logits
