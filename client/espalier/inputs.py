"""What jobs are made of: models and datasets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from espalier.errors import NotReady
from espalier.files import Arrays, Progress, Upload, arrays_as_npz
from espalier.shapes import Dataset, Model
from espalier.transport import Transport
from espalier.transport import api_path as _path
from espalier.uploads import send_file

INTAKE_INTERVAL_SECONDS = 0.2


class Inputs:
    """The part of `AsyncClient` that uploads and reads these."""

    _transport: Transport

    async def upload_model(
        self,
        file: Upload,
        *,
        architecture: str | None = None,
        name: str | None = None,
        input_shape: tuple[int, ...] | None = None,
        num_classes: int | None = None,
        seed: int | None = None,
        format: str | None = None,
        wait: bool = True,
        progress: Progress | None = None,
    ) -> Model:
        """Stream a network, as `export_model` wrote it, or a file of weights for a named architecture. Waits until the
        service has validated it. A large file goes on where it was cut off, and is not sent where the service has it.

        `format`, left out, is safetensors where an architecture is named, else exported_program.
        `progress(bytes sent, bytes of the whole)` is called while the file is sent.

        Raises:
            NotReady: the service found it invalid; the message is the service's.
        """
        spec = {
            "name": name or _name_of(file, "model"),
            "format": format or ("safetensors" if architecture else "exported_program"),
            "architecture": architecture,
            "input_shape": input_shape and ",".join(map(str, input_shape)),
            "num_classes": num_classes,
            "seed": seed,
        }
        model: Model = await send_file(self._transport, "/v1/models", spec, file, progress)
        return await self._ready(lambda: self.model(model["id"])) if wait else model

    async def upload_dataset(
        self,
        data: Upload | Arrays,
        *,
        name: str | None = None,
        format: str | None = None,
        wait: bool = True,
        progress: Progress | None = None,
    ) -> Dataset:
        """Stream named splits: a .npz or .safetensors file, or arrays `{"train": (inputs, targets), ...}` with
        optional `validation` and `test`. Waits until the service has validated it.

        `format`, left out, is what a file's name ends in, or what bytes begin as. Of large files, and of `progress`,
        see `upload_model`.

        Raises:
            NotReady: the service found it invalid; the message is the service's.
        """
        if isinstance(data, Mapping):
            with arrays_as_npz(data) as path:
                return await self.upload_dataset(path, name=name or "dataset", wait=wait, progress=progress)
        spec = {"name": name or _name_of(data, "dataset"), "format": format or _dataset_format(data)}
        dataset: Dataset = await send_file(self._transport, "/v1/datasets", spec, data, progress)
        return await self._ready(lambda: self.dataset(dataset["id"])) if wait else dataset

    async def model(self, model_id: str) -> Model:
        model: Model = await self._transport.get(_path("models", model_id))
        return model

    async def dataset(self, dataset_id: str) -> Dataset:
        dataset: Dataset = await self._transport.get(_path("datasets", dataset_id))
        return dataset

    def models(self, /, **filters: Any) -> AsyncGenerator[Model, None]:
        """Every model, newest first, page by page as they are asked for; filters: `status`, `limit` of one page."""
        return self._transport.pages("/v1/models", **filters)

    def datasets(self, /, **filters: Any) -> AsyncGenerator[Dataset, None]:
        """As `models`."""
        return self._transport.pages("/v1/datasets", **filters)

    async def delete_model(self, model_id: str) -> None:
        """Not while a job refers to it. It may be gone already."""
        await self._transport.delete(_path("models", model_id))

    async def delete_dataset(self, dataset_id: str) -> None:
        """Not while a job refers to it. It may be gone already."""
        await self._transport.delete(_path("datasets", dataset_id))

    async def _ready(self, read: Callable[[], Awaitable[Any]]) -> Any:
        while (document := await read())["status"] == "validating":
            await self._transport.wire.sleep(INTAKE_INTERVAL_SECONDS)
        if document["status"] != "ready":
            raise NotReady(document)
        return document


def _name_of(file: Upload, otherwise: str) -> str:
    return otherwise if isinstance(file, bytes) else Path(file).stem


def _dataset_format(data: Upload) -> str:
    if isinstance(data, bytes):
        return "safetensors" if data[8:9] == b"{" else "npz"  # eight bytes of length, then JSON
    return "safetensors" if Path(data).suffix == ".safetensors" else "npz"
