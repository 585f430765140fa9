"""A file from the service: what has come before a connection was cut is not sent again, and all of it is checked."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import BinaryIO

from espalier.errors import ApiError, DigestMismatch, Unreachable
from espalier.files import PIECE_BYTES, Progress, written_whole
from espalier.patience import Patience
from espalier.shapes import Artifact
from espalier.transport import Transport, api_path


async def download(transport: Transport, artifact: Artifact, path: Path, progress: Progress | None) -> Path:
    """Store an artifact's content at `path`: all of it, with the right digest, or nothing."""
    with written_whole(path) as file:
        digest = await _receive(transport, artifact, file, progress)
        if digest != artifact["sha256"]:
            raise DigestMismatch(f"{path.name}: sha256 is {digest}, and {artifact['sha256']} was promised")
    return path


async def _receive(transport: Transport, artifact: Artifact, file: BinaryIO, progress: Progress | None) -> str:
    """The content's digest. A connection that is cut is made again for the client's patience each time."""
    url = api_path("artifacts", artifact["id"], "content")
    patience = Patience(transport.wire, transport.patience_seconds)
    digest, received, etag = hashlib.sha256(), 0, ""
    while True:
        # If-Range: where it is another content by now, all of it comes, with 200.
        headers = {"Range": f"bytes={received}-", "If-Range": etag} if received and etag else {}
        try:
            async with transport.stream("GET", url, headers=headers) as response:
                if response.status_code != 206:
                    digest, received = hashlib.sha256(), 0
                    file.seek(0)
                    file.truncate()
                etag = response.headers.get("ETag", "")
                async for piece in transport.wire.chunks(response, PIECE_BYTES):
                    await transport.wire.work(partial(_store, file, digest, piece))
                    received += len(piece)
                    patience.renew()
                    if progress:
                        progress(received, artifact["size_bytes"])
            return digest.hexdigest()
        except (Unreachable, ApiError) as error:
            await patience.bear(error)


def _store(file: BinaryIO, digest: hashlib._Hash, piece: bytes) -> None:
    file.write(piece)
    digest.update(piece)
