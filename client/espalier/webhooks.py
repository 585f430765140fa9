"""Webhooks: the service calls a URL of yours when something happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from espalier.shapes import Delivery, NewWebhook, Webhook
from espalier.transport import Transport
from espalier.transport import api_path as _path


class Webhooks:
    """The part of `AsyncClient` that sets them up and looks after them."""

    _transport: Transport

    async def create_webhook(
        self, url: str, events: list[str], *, description: str = "", enabled: bool = True
    ) -> NewWebhook:
        """`events` such as `job.succeeded`, or `*` for all. `secret` is what messages are signed with, shown this
        once."""
        body = {"url": url, "events": events, "description": description, "enabled": enabled}
        made: NewWebhook = await self._transport.post("/v1/webhooks", body)
        return made

    async def webhook(self, webhook_id: str) -> Webhook:
        webhook: Webhook = await self._transport.get(_path("webhooks", webhook_id))
        return webhook

    def webhooks(self) -> AsyncGenerator[Webhook, None]:
        return self._transport.pages("/v1/webhooks")

    async def update_webhook(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: list[str] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """What is None stays. `enabled=True` after the service disabled it: it is tried afresh."""
        body = {"url": url, "events": events, "description": description, "enabled": enabled}
        webhook: Webhook = await self._transport.patch(_path("webhooks", webhook_id), body)
        return webhook

    async def delete_webhook(self, webhook_id: str) -> None:
        """With its deliveries. It may be gone already."""
        await self._transport.delete(_path("webhooks", webhook_id))

    async def rotate_webhook(self, webhook_id: str) -> NewWebhook:
        """A new secret, shown this once. For 24 hours messages are signed with the one before, too."""
        made: NewWebhook = await self._transport.post(_path("webhooks", webhook_id, "rotate"))
        return made

    async def ping_webhook(self, webhook_id: str) -> Delivery:
        """Have a message sent to try it; its delivery, still pending: see `deliveries`."""
        delivery: Delivery = await self._transport.post(_path("webhooks", webhook_id, "ping"))
        return delivery

    def deliveries(self, webhook_id: str) -> AsyncGenerator[Delivery, None]:
        """Newest first, of the last 30 days."""
        return self._transport.pages(_path("webhooks", webhook_id, "deliveries"))

    async def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Have the same message sent again."""
        path = _path("webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
        delivery: Delivery = await self._transport.post(path)
        return delivery
