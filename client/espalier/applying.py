"""A result into the module it was made of: weights, and masks that hold while it is trained on."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from espalier.errors import ApplyError, DigestMismatch, NotVerified
from espalier.exporting import bare
from espalier.masks import read_masks
from espalier.provenance import verify
from espalier.shapes import Artifact

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WEIGHTS, MASKS = "model.safetensors", "masks.safetensors"
_NUM_LISTED = 5


@dataclass(frozen=True)
class Applied:
    """`masks` by parameter name, True where a weight is kept."""

    module: nn.Module
    masks: dict[str, Tensor]

    @property
    def sparsity(self) -> float:
        """Fraction removed of the weights that have masks."""
        total = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(mask.sum()) for mask in self.masks.values()) / total if total else 0.0

    def enforce(self) -> None:
        """Pruned weights to zero again; to be called after each step of an optimizer, or let `hold` do it."""
        import torch

        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, mask in self.masks.items():
                parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)

    def hold(self, optimizer: torch.optim.Optimizer) -> Any:
        """From now on each step of `optimizer` leaves pruned weights zero, until `remove()` of what is returned."""
        return optimizer.register_step_post_hook(lambda *_: self.enforce())


def apply(
    module: nn.Module,
    path: Path | str,
    *,
    masks: Path | str | Literal[False] | None = None,
    artifacts: Iterable[Artifact] | None = None,
    statements: Iterable[Mapping[str, Any] | bytes | Path | str] | None = None,
    public_key: bytes | Path | str | None = None,
) -> Applied:
    """Load a job's weights into `module`, in place, and give its masks. Where anything does not fit, nothing changes.

    Args:
        path: `model.safetensors` (or a ticket), with `masks.safetensors` beside it; or a folder or a zip of both.
        masks: another file of masks; False for none.
        artifacts: what the service says of the files, as `client.artifacts(job)` gave it: each file must be one of
            them, by its sha256.
        statements: the files' statements of provenance; with `public_key`, each file must be signed for in one of them.

    Raises:
        ApplyError: a file is missing or unreadable, or is of another network or round; nothing was changed.
        DigestMismatch: a file is none of `artifacts`.
        NotVerified: a file is in no statement that the key has signed.
    """
    module = bare(module)
    artifacts, statements = artifacts and list(artifacts), statements and list(statements)
    with _files(Path(path), masks) as (weights_path, masks_path):
        for file in (weights_path, masks_path):
            if file is not None:
                _check_origin(file, artifacts, statements, public_key)
        state = _read(weights_path)
        kept = {} if masks_path is None else _read_masks(masks_path)
    _check_state(module, state)
    _check_masks(state, kept)
    module.load_state_dict(state)
    return Applied(module, kept)


@contextmanager
def _files(path: Path, masks: Path | str | Literal[False] | None) -> Iterator[tuple[Path, Path | None]]:
    """(weights, masks); those of a zip in a temporary folder."""
    if not path.exists():
        raise ApplyError(f"there is no {path}")
    if path.is_dir():
        yield _found(path / WEIGHTS), _masks_beside(path, masks)
    elif zipfile.is_zipfile(path):
        with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(path) as archive:
            for wanted in (WEIGHTS, MASKS):
                members = [member for member in archive.namelist() if member.rpartition("/")[2] == wanted]
                if len(members) > 1:
                    raise ApplyError(f"{path.name} holds {len(members)} files {wanted}: unpack it and name one")
                if members:
                    with archive.open(members[0]) as source, (Path(name) / wanted).open("wb") as target:
                        shutil.copyfileobj(source, target)
            yield _found(Path(name) / WEIGHTS), _masks_beside(Path(name), masks)
    else:
        yield path, _masks_beside(path.parent, masks)


def _masks_beside(folder: Path, masks: Path | str | Literal[False] | None) -> Path | None:
    return None if masks is False else _found(folder / MASKS if masks is None else Path(masks))


def _found(path: Path) -> Path:
    if not path.is_file():
        also = ": download the round's artifact of kind masks beside the weights, or pass masks=False to do without"
        raise ApplyError(f"there is no {path.name} in {path.parent}{also if path.name == MASKS else ''}")
    return path


def _check_origin(
    file: Path,
    artifacts: Iterable[Artifact] | None,
    statements: Iterable[Mapping[str, Any] | bytes | Path | str] | None,
    public_key: bytes | Path | str | None,
) -> None:
    if artifacts is not None:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest not in {artifact["sha256"] for artifact in artifacts}:
            raise DigestMismatch(
                f"{file.name}: its sha256, {digest}, is that of none of the artifacts; download it again"
            )
    if (statements is None) != (public_key is None):
        raise ApplyError("statements are worth as much as the key that signed them: pass statements and public_key")
    if statements is not None and public_key is not None:
        reasons = []
        for statement in statements:
            try:
                verify(file, statement, public_key)
            except NotVerified as error:
                reasons.append(str(error))
            else:
                return
        raise NotVerified(f"{file.name} is in none of the statements: {'; '.join(reasons) or 'there are none'}")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ApplyError("torch or safetensors is not installed here; pip install 'espalier[torch]'") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ApplyError(
            f"{path.name} is no whole safetensors file ({error}); of a job's artifacts, those of kind model, ticket "
            "and masks are loaded into a module, and a program by torch.export.load"
        ) from error


def _read_masks(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        return {name: torch.from_numpy(mask.copy()) for name, mask in read_masks(path).items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ApplyError(f"{path.name} holds no masks ({error}); download the artifact of kind masks") from error


def _check_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    wanted = module.state_dict()
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unexpected:
        raise ApplyError(
            f"the file is of another module: {_listed(missing)} missing in it, {_listed(unexpected)} unexpected"
            + _prefix_hint(missing, unexpected)
        )
    other = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if state[name].shape != wanted[name].shape
    ]
    if other:
        raise ApplyError(
            f"the file has other shapes: {_listed(other)}; build the module with the same sizes (of a reduced network, "
            "which has fewer units, load the program: torch.export.load)"
        )


def _prefix_hint(missing: list[str], unexpected: list[str]) -> str:
    """Where one side's names are the other's behind a prefix, as of a module inside another."""
    for longer, shorter, remedy in (
        (missing, unexpected, "apply to the module's own part {prefix!r}"),
        (unexpected, missing, "apply to the module that has this one as its part {prefix!r}"),
    ):
        if longer and shorter and longer[0].endswith(shorter[0]):
            prefix = longer[0].removesuffix(shorter[0])
            if prefix and longer == [prefix + name for name in shorter]:
                return "; " + remedy.format(prefix=prefix.rstrip("."))
    return "; apply it to the module that was exported"


def _check_masks(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if name not in state or state[name].shape != mask.shape:
            raise ApplyError(f"the mask of {name} fits no weight: weights and masks are of different networks")
        if bool((state[name][~mask] != 0).any()):
            raise ApplyError(f"{name} has weights where its mask has none: weights and masks are of different rounds")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NUM_LISTED} more" if len(names) > _NUM_LISTED else ""
    return (", ".join(names[:_NUM_LISTED]) or "none") + more
