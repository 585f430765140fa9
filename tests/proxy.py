"""A proxy between a client and the service that does what networks do: cuts, hangs, and is slow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

Trouble = tuple[int, Literal["cut", "hang"] | Callable[[], object]]
"""(bytes of all that clients sent so far, what happens then)."""


class Proxy:
    """`cut` closes both sides; `hang` closes the client's and lets the server wait for more; others are called.
    `answers_cut_at`: so many bytes of all answers so far, and the connection is closed behind them."""

    def __init__(
        self, port: int, *troubles: Trouble, bytes_a_second: float = float("inf"), answers_cut_at: tuple[int, ...] = ()
    ) -> None:
        self._port, self._troubles, self._rate = port, list(troubles), bytes_a_second
        self._answers_cut_at = list(answers_cut_at)
        self.sent_bytes = self.answered_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._port))
                except OSError:  # it is away: so are we
                    client.close()
                    continue
                self._open += [client, server]
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
                self.sent_bytes += len(data)
                time.sleep(len(data) / self._rate)
                if self._troubles and self.sent_bytes >= self._troubles[0][0]:
                    _, trouble = self._troubles.pop(0)
                    if callable(trouble):
                        trouble()
                        continue
                    client.shutdown(socket.SHUT_RDWR)
                    client.close()
                    if trouble == "hang":
                        return
                    break
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
                self.answered_bytes += len(data)
                if self._answers_cut_at and self.answered_bytes >= self._answers_cut_at[0]:
                    self._answers_cut_at.pop(0)
                    server.shutdown(socket.SHUT_RDWR)
                    break
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
