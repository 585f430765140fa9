"""Messages as a real receiver hears them, and where none ever goes."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fleet import Fleet
from receiver import Receiver, receiving
from sqlalchemy import select, update
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from store import deliveries, webhooks
from store.database import Database, now
from store.settings import Settings
from store.tables import Delivery, Webhook
from worker.outgoing import post
from worker.webhooks import PARALLEL, Sender

TLS = ssl.create_default_context()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def private(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_allow_private": True, "sweep_seconds": 0.05})


@pytest.fixture
def add(database: Database, project: str, receiver: Receiver) -> Callable[..., str]:
    def make(num_messages: int = 1, url: str | None = None) -> str:
        with database.transaction() as session:
            webhook = webhooks.add(session, project, url or receiver.url, ["job.failed"], "", enabled=True)
            for _ in range(num_messages):
                webhooks.ping(session, webhook)
        return webhook.id

    return make


def until(done: Callable[[], bool], *senders: Sender) -> None:
    give_up_at = time.monotonic() + 30
    while not done():
        assert time.monotonic() < give_up_at
        for sender in senders:
            sender.turn()


def rows(database: Database) -> list[Delivery]:
    with database.reading() as session:
        return list(session.scalars(select(Delivery)))


def settled(database: Database, num_attempts: int = 1) -> Callable[[], bool]:
    return lambda: all(len(row.attempts) >= num_attempts for row in rows(database))


def test_the_signature_holds_and_a_retry_says_the_same(
    database: Database, private: Settings, add: Callable[..., str], receiver: Receiver, project: str
) -> None:
    webhook_id = add()
    receiver.answers = [500, 302]
    sender = Sender(database, private)
    for attempt in (1, 2, 3):
        until(settled(database, attempt), sender)
        with database.transaction() as session:
            session.execute(update(Delivery).where(Delivery.status == "pending").values(next_attempt_at=now()))
    sender.close()

    with database.reading() as session:
        verifier = Verifier(webhooks.secret_of(private.secret(), session.get_one(Webhook, webhook_id)))
    assert len({(headers["webhook-id"], body) for headers, body in receiver.heard}) == 1
    for headers, body in receiver.heard:
        message = verifier.verify(body, headers)
        assert message["type"] == "webhook.ping"
        assert message["data"] == {"webhook": webhook_id, "project": project}
        said_at = datetime.datetime.fromisoformat(message["timestamp"])
        assert abs(said_at - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)
        with pytest.raises(WebhookVerificationError):
            verifier.verify(body.replace(b"ping", b"pong"), headers)
    [row] = rows(database)
    assert row.status == "delivered"
    assert [(each["status_code"], each["error"]) for each in row.attempts] == [
        (500, "it answered 500"),
        (302, "it answered 302; redirects are not followed"),
        (204, None),
    ]


def test_both_secrets_sign_after_a_rotation(
    database: Database, private: Settings, add: Callable[..., str], receiver: Receiver, project: str
) -> None:
    webhook_id = add()
    with database.transaction() as session:
        before = webhooks.secret_of(private.secret(), session.get_one(Webhook, webhook_id))
        rotated = webhooks.rotate(session, project, webhook_id)
    assert rotated is not None
    sender = Sender(database, private)
    until(settled(database), sender)
    sender.close()
    [(headers, body)] = receiver.heard
    for secret in (before, webhooks.secret_of(private.secret(), rotated)):
        Verifier(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(webhooks.secrets_of(private.secret(), webhook_id, 2, None, 0.0)[0]).verify(body, headers)


def test_two_senders_send_each_message_once(
    database: Database, private: Settings, add: Callable[..., str], receiver: Receiver
) -> None:
    for _ in range(3):
        add(num_messages=8)
    senders = [Sender(database, private), Sender(database, private)]
    until(settled(database), *senders)
    for sender in senders:
        sender.close()
    assert len(receiver.ids) == len(set(receiver.ids)) == 24


def test_a_killed_senders_message_goes_out(
    database: Database, private: Settings, add: Callable[..., str], receiver: Receiver
) -> None:
    add()
    with database.transaction() as session:
        claimed = deliveries.claim(session, ())  # and then it dies
        assert claimed is not None
    sender = Sender(database, private)
    sender.turn()
    assert receiver.heard == []
    with database.transaction() as session:
        session.execute(update(Delivery).values(next_attempt_at=now()))  # its lease has run out
    until(settled(database), sender)
    sender.close()
    assert receiver.ids == [claimed.id]


def test_gone_disables(database: Database, private: Settings, add: Callable[..., str], receiver: Receiver) -> None:
    webhook_id = add(num_messages=2)
    receiver.answers = [410]
    sender = Sender(database, private)
    until(lambda: any(row.attempts for row in rows(database)), sender)
    sender.turn()
    sender.close()
    with database.reading() as session:
        webhook = session.get_one(Webhook, webhook_id)
    assert (webhook.enabled, webhook.disabled_reason) == (False, "it answered 410 Gone")
    assert len(receiver.heard) == 1


def test_slow_receivers_hold_up_no_other(
    database: Database, private: Settings, add: Callable[..., str], receiver: Receiver
) -> None:
    with receiving() as slow:
        slow.drip_seconds = 0.2  # an answer of twelve seconds and more
        for _ in range(PARALLEL - 1):
            add(url=slow.url, num_messages=2)
        add(num_messages=3)
        sender = Sender(database, private, timeout_seconds=2)
        until(lambda: len(receiver.heard) == 3, sender)
        assert not any(row.failures for row in rows(database)), "all of the slow ones are still waited for"
        sender.close()
        assert len(slow.heard) == PARALLEL - 1, "one at a time to each"
        assert {row.attempts[0]["error"] for row in rows(database) if row.failures} == {"no answer within 2 s"}


def test_without_the_setting_nothing_private_is_sent_to(
    database: Database, settings: Settings, add: Callable[..., str], receiver: Receiver
) -> None:
    """Nor where the webhook was registered while it was allowed."""
    add()
    add(url=receiver.url.replace("http:", "https:"))
    sender = Sender(database, settings)
    until(settled(database), sender)
    sender.close()
    assert receiver.heard == []
    said = sorted(row.attempts[0]["error"] for row in rows(database))
    assert said == ["its name leads to no public address", "use https://"]


# Where nothing goes; no database here.


def test_an_answer_that_never_ends_is_cut_off(receiver: Receiver) -> None:
    receiver.drip_seconds = 0.1
    start = time.monotonic()
    outcome = post(receiver.url, {}, b"{}", TLS, allow_private=True, timeout_seconds=0.5)
    assert time.monotonic() - start < 2
    assert (outcome.status_code, outcome.error) == (None, "no answer within 0.5 s")


def test_proxies_of_the_environment_are_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post(receiver.url, {}, b"{}", TLS, allow_private=True).error is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0"])
def test_no_form_of_a_private_address_is_connected_to(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connected = connections(monkeypatch)
    outcome = post(f"https://{host}:9/", {}, b"{}", TLS)
    assert outcome.error == "its name leads to no public address"
    assert connected == []


def test_plain_http_is_for_private_networks_alone(receiver: Receiver) -> None:
    assert post("http://1.1.1.1/", {}, b"{}", TLS).error == "use https://"


def test_a_name_that_changes_is_looked_up_once(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is public, as a check would see it; every later one is this machine."""
    connected = connections(monkeypatch)
    look_up, names = socket.getaddrinfo, []

    def changing(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebinding.example":
            return look_up(host, port, *args, **kwargs)
        names.append(host)
        return look_up("93.184.216.34" if len(names) == 1 else "127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    url = f"https://rebinding.example:{receiver.port}/"
    assert post(url, {}, b"{}", TLS).error == "no connection: refused by the test"
    assert connected == [("93.184.216.34", receiver.port)]
    assert post(url, {}, b"{}", TLS).error == "its name leads to no public address"
    assert len(connected) == 1


def test_of_many_addresses_the_public_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = connections(monkeypatch)
    look_up = socket.getaddrinfo

    def several(host: Any, *args: Any, **kwargs: Any) -> Any:
        addresses = ["10.0.0.1", "1.1.1.1", "169.254.169.254", "1.0.0.1"] if host == "many.example" else [host]
        return [found for address in addresses for found in look_up(address, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    post("https://many.example/", {}, b"{}", TLS)
    assert connected == [("1.1.1.1", 443), ("1.0.0.1", 443)]


def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where sockets are connected to from here on; nothing leaves this machine."""
    connected: list[Any] = []

    def connect(_socket: socket.socket, address: Any) -> None:
        connected.append(address[:2])
        raise ConnectionRefusedError("refused by the test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return connected


def test_certificates_are_checked_against_the_name(tmp_path: Path) -> None:
    """Not against the number that is connected to."""
    authority, chain = certificate_of("localhost"), tmp_path / "chain.pem"
    chain.write_bytes(authority)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(chain)
    trusting = ssl.create_default_context(cafile=chain)
    with receiving(server_context) as receiver:
        assert post(f"https://localhost:{receiver.port}/", {}, b"{}", trusting, allow_private=True).error is None
        for host, context in (("127.0.0.1", trusting), ("localhost", TLS)):
            outcome = post(f"https://{host}:{receiver.port}/", {}, b"{}", context, allow_private=True)
            assert "CERTIFICATE_VERIFY_FAILED" in (outcome.error or "")
        assert [json.loads(body) for _, body in receiver.heard] == [{}]


def certificate_of(name: str) -> bytes:
    """Key and self-signed certificate, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    at = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(at - datetime.timedelta(days=1)).not_valid_after(at + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = builder.sign(key, hashes.SHA256())
    unencrypted = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, unencrypted) + signed.public_bytes(pem)


def test_a_killed_sweepers_message_is_sent_by_another(
    fleet: Fleet, private: Settings, add: Callable[..., str], receiver: Receiver
) -> None:
    """The real command, killed while the receiver has the message and has not answered."""
    fleet.settings = private
    add()
    receiver.drip_seconds = 0.1
    sweeper = fleet.start("sweeper")
    fleet.wait(lambda: receiver.heard, bool)
    sweeper.kill()
    sweeper.wait()
    receiver.drip_seconds = 0
    [row] = rows(fleet.database)
    assert (row.status, row.attempts) == ("pending", [])
    with fleet.database.transaction() as session:
        session.execute(update(Delivery).values(next_attempt_at=now()))  # its lease has run out
    other = fleet.start("sweeper")
    fleet.wait(lambda: rows(fleet.database)[0].status, lambda status: status == "delivered")
    assert receiver.ids == [row.id] * 2
    other.terminate()
    assert other.wait(10) == 0
