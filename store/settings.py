"""Settings, read once from the environment (`ESPALIER_*`). Every process of the service reads the same ones."""

from __future__ import annotations

import contextlib
import re
import secrets
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from store.queue import INTAKE


class Settings(BaseSettings):
    # An empty variable is none: that is what compose files make of one that is not set.
    model_config = SettingsConfigDict(
        env_prefix="ESPALIER_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    data_dir: Path = Path("var")
    database_url: str | None = None
    """`postgresql://user:password@host:port/name` (or `sqlite:////absolute/path`); left out, SQLite in the data
    directory."""
    broker_url: str = "redis://127.0.0.1:6379/0"
    blob_url: str | None = None
    """`s3://bucket/prefix` or `file:///folder`; left out, the folder `blobs` in the data directory."""
    api_key: SecretStr | None = None
    """A first key. Left out, one is made and printed once, when the database holds none."""
    secret_key: SecretStr | None = Field(None, min_length=32)
    """Links, cookies, webhooks and signatures derive from it; left out, a file of mode 0600 in the data directory.
    Random, and the same on every machine: `openssl rand -hex 32`."""

    rate_limit: str | None = None
    """Requests of one key, such as `1200/minute`; left out, as many as it likes."""
    max_live_jobs: int | None = Field(None, ge=0)
    """Of one project, jobs that have not ended; a project's own quota goes before. Left out, no limit."""
    max_stored_bytes: int | None = Field(None, ge=0)
    """Of one project, models, datasets and artifacts together, each content once."""
    oidc_addresses: Literal["public", "private", "loopback"] = "public"
    """Where the issuers of trust rules may be: on public addresses, in private networks, too, or also on this machine
    and there by plain http (for tests)."""

    retention_days: float | None = Field(None, gt=0, le=36500)
    """How long a job's artifacts stay after its end, where the job does not say itself; left out, for ever."""
    audit_days: float | None = Field(None, gt=0, le=36500)
    """How long entries stay in the audit log; left out, for ever."""
    blob_grace_seconds: float = Field(3600, gt=0)
    """How long content stays that nothing refers to. An upload must be sent to its bucket within half of it."""
    min_free_bytes: int = Field(512 * 2**20, ge=0)
    """With less room than this on its disk the API takes no uploads, and a worker no work."""
    max_upload_bytes: int = Field(4 * 2**30, ge=1)
    upload_expiry_hours: float = Field(24, gt=0)
    """How long a resumable upload stays after its last byte, and after its end, where nothing was made of it."""
    max_open_uploads: int = Field(64, ge=1)
    """Resumable uploads of one project that have begun and not ended."""
    default_pool: str = "cpu"
    worker_pool: str = "cpu"
    """The pool that this worker serves, one Celery queue each."""
    worker_device: Literal["cpu", "cuda"] = "cpu"
    """What jobs compute on; uploads are validated on the CPU by any worker."""
    worker_slots: int | None = Field(None, ge=1)
    """Jobs at a time; left out, 1 on the CPU, and one on each CUDA device. Uploads have one more slot, their own."""
    gpu_memory_fraction: float = Field(0.95, gt=0, le=1)
    """What one training process may take of its device's memory; less where slots share a device."""
    worker_threads: int = Field(1, ge=1)
    """torch threads of one training process: part of the determinism class."""
    child_memory_bytes: int = Field(6 * 2**30, ge=2**30)
    """Address space of one training process, on top of the size of its dataset."""
    folder_max_bytes: int = Field(16 * 2**30, ge=2**20)
    """What one training process may leave in its folder before it is stopped."""
    validation_seconds: float = Field(900, gt=0)
    """How long a worker validates one upload before it is invalid: others wait for the same slot."""
    sandbox: Literal["on", "off"] = "on"
    webhook_allow_private: bool = False
    """Webhooks may lead to private addresses, and by plain HTTP: for networks in which every project is trusted."""

    lease_seconds: float = Field(60, gt=0)
    renew_seconds: float = Field(3, gt=0)
    """A worker hears of a cancel or a pause no later than this."""
    sweep_seconds: float = Field(3, gt=0)
    stop_grace_seconds: float = Field(10, gt=0)
    """Between asking a training process to stop and killing it: in a pause or a drain, it saves where it is."""
    checkpoint_seconds: float = Field(60, gt=0)
    """Between the checkpoints that a training process saves inside a round: what a killed worker costs at most."""

    heartbeat_seconds: float = Field(5, gt=0)
    """Between two announcements of a worker; silent for four of them, it counts as gone."""
    stuck_seconds: float = Field(60, gt=0)
    """A queue whose oldest row waits longer, with no worker that serves it, is stuck: the sweeper says so."""
    log_format: Literal["json", "text"] | None = None
    """One JSON object a line, or for people; left out, the latter on a terminal alone."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, rate: str | None) -> str | None:
        if rate is not None:
            from limits import parse  # loaded by those alone who set a limit

            parse(rate)
        return rate

    @field_validator("default_pool", "worker_pool")
    @classmethod
    def _not_intake(cls, pool: str) -> str:
        if pool == INTAKE:
            raise ValueError(f"{INTAKE} is the queue of uploads; name the pool otherwise")
        return pool

    @field_validator("database_url")
    @classmethod
    def _name_the_driver(cls, url: str | None) -> str | None:
        """Every other tool writes `postgresql://` or `postgres://`; SQLAlchemy would take them for psycopg2."""
        scheme, _, rest = (url or "").partition("://")
        if url is None or scheme in ("sqlite", "postgresql+psycopg"):
            return url
        if scheme in ("postgresql", "postgres"):
            return f"postgresql+psycopg://{rest}"
        raise ValueError("it begins with postgresql:// or sqlite:///")  # never the URL itself: it holds a password

    @property
    def database(self) -> str:
        """The SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'espalier.db'}"

    @field_validator("blob_url")
    @classmethod
    def _names_a_place(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"file:///.+|s3://[^/]+(/.*)?", url):
            raise ValueError(f"{url!r}: use s3://bucket/prefix, or file:///folder")
        return url

    @property
    def blob_bucket(self) -> tuple[str, str] | None:
        """Bucket and prefix; None: blobs lie in `blob_dir`."""
        if self.blob_url is None or not self.blob_url.startswith("s3://"):
            return None
        bucket, _, prefix = self.blob_url.removeprefix("s3://").partition("/")
        return bucket, prefix.strip("/")

    @property
    def blob_dir(self) -> Path:
        if self.blob_url is not None and self.blob_url.startswith("file://"):
            return Path(unquote(self.blob_url.removeprefix("file://")))
        return self.data_dir / "blobs"

    @property
    def work_dir(self) -> Path:
        """Folders of running attempts: this machine's own, never shared."""
        return self.data_dir / "work"

    def secret(self) -> bytes:
        """The service's secret: the setting, else the file's, made at the first call (mode 0600)."""
        if self.secret_key is not None:
            return self.secret_key.get_secret_value().encode()
        path = self.data_dir / "secret_key"
        if not path.exists():
            # Written whole under another name, then linked: of two processes that start at once one wins, and nobody
            # reads a file that is still empty.
            mine = path.with_name(f"secret_key.{secrets.token_hex(8)}")
            mine.touch(mode=0o600)
            mine.write_text(secrets.token_urlsafe(32))
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(mine)
            mine.unlink()
        return path.read_bytes()
