"""The named architectures, by name alone. Torch-free: the API refuses an unknown name before it takes a file.

Those of other packages are `FAMILY:NAME`. Which names a package has, only a worker that has it can say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

PROGRAM = "exported_program"
"""The format of what `torch.export.save` writes."""

ARCHITECTURE_NAMES = ("lenet_300_100", "lenet5", "conv2", "conv4", "conv6", "resnet20", "vgg16")
"""The keys of `pruning.formats.architectures.ARCHITECTURES`, in its order."""

Family = Literal["timm", "torchvision", "transformers"]
FAMILIES: tuple[Family, ...] = ("timm", "torchvision", "transformers")
_NAME = re.compile(r"(timm|torchvision|transformers):[a-z0-9][a-z0-9_-]{0,79}")

TRANSFORMERS: dict[str, Literal["sequence", "tokens", "image"]] = {
    **dict.fromkeys(("albert", "bert", "deberta-v2", "distilbert", "electra", "roberta", "xlm-roberta"), "sequence"),
    **dict.fromkeys(("gpt2", "opt"), "tokens"),
    **dict.fromkeys(("beit", "convnext", "resnet", "vit"), "image"),
}
"""Types of transformers' configurations that are known to be read, by what they are built for: to classify sequences of
tokens, to continue them, or to classify images."""


class Bounds(NamedTuple):
    least: float
    most: float
    kind: type = int


_SIZE, _WIDE, _DEPTH, _HEADS = Bounds(1, 8192), Bounds(1, 32_768), Bounds(1, 96), Bounds(1, 128)
_VOCABULARY, _LENGTH, _DROP = Bounds(2, 300_000), Bounds(1, 8192), Bounds(0, 0.95, float)

ARGUMENTS: dict[Family, dict[str, Bounds]] = {
    "timm": {"drop_rate": _DROP, "embed_dim": _SIZE, "depth": _DEPTH, "num_heads": _HEADS, "patch_size": Bounds(1, 64)},
    "torchvision": {"dropout": _DROP, "width_mult": Bounds(0.1, 4, float)},
    "transformers": {
        **dict.fromkeys(("hidden_size", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"), _SIZE),
        **dict.fromkeys(("intermediate_size", "hidden_dim", "ffn_dim", "n_inner"), _WIDE),
        **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), _DEPTH),
        **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), _HEADS),
        **dict.fromkeys(("max_position_embeddings", "n_positions"), _LENGTH),
        **dict.fromkeys(
            ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "attn_pdrop"), _DROP
        ),
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "classifier_dropout"), _DROP),
        "vocab_size": _VOCABULARY,
        "patch_size": Bounds(1, 64),
    },
}
"""What of a network's making may be said: numbers within bounds. Sizes multiply, so that what they come to is counted
before anything is allocated."""


def family_of(architecture: str | None) -> Family | None:
    """None: one of ours, or none at all."""
    return next((family for family in FAMILIES if architecture and architecture.startswith(f"{family}:")), None)


def is_well_formed(architecture: str) -> bool:
    """One of ours, or what may be a name of another package: no path, no address."""
    return architecture in ARCHITECTURE_NAMES or _NAME.fullmatch(architecture) is not None


def installed_families() -> list[Family]:
    """Those whose packages are here, which is not to say that they can be imported."""
    needed: dict[Family, tuple[str, ...]] = {
        "timm": ("timm", "torchvision"),
        "torchvision": ("torchvision",),
        "transformers": ("transformers",),
    }
    return [family for family in FAMILIES if all(find_spec(package) is not None for package in needed[family])]


def argument_refused(architecture: str, arguments: Mapping[str, Any]) -> str | None:
    """Why not, with the remedy; None where all of them may be asked for."""
    family = family_of(architecture)
    if family is None:
        return f"{architecture} takes no arguments; input_shape and num_classes are all it has" if arguments else None
    known = ARGUMENTS[family]
    for name, value in arguments.items():
        if name not in known:
            return f"{name[:80]!r} cannot be set; of {family} these can: {', '.join(sorted(known))}"
        least, most, kind = known[name]
        is_number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            return f"{name} must be {what} from {least:g} to {most:g}"
    return None
