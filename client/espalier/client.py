"""`Client`: one method for each thing a user does with the service. Each is its twin of `AsyncClient`, blocking."""

from __future__ import annotations

from typing import Self

from espalier.asynchronous import AsyncClient
from espalier.blocking import blocking, iterating, run
from espalier.wires import BlockingWire


class Client:
    """`url` and `api_key` default to ESPALIER_URL and ESPALIER_API_KEY.

    What may be sent twice is, for `patience_seconds`, where the service is away: reads, verbs, and what it then makes
    once. Small uploads are sent once, for the caller to decide. Errors: see `espalier.errors`.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, *, patience_seconds: float = 60) -> None:
        self._twin = AsyncClient(url, api_key, patience_seconds=patience_seconds, wire=BlockingWire)

    @classmethod
    def for_token(
        cls, token: str, url: str | None = None, *, trust_rule: str | None = None, patience_seconds: float = 60
    ) -> Self:
        """In a CI run: a client with the key of at most 15 minutes that its OIDC token is exchanged for. A token is
        exchanged once; `trust_rule` says which rule is meant, where several take it.

        Raises:
            ApiError: `token_refused`: no trust rule takes it; the project's audit log says why.
        """
        made = cls.__new__(cls)
        made._twin = run(
            AsyncClient.for_token(
                token, url, trust_rule=trust_rule, patience_seconds=patience_seconds, wire=BlockingWire
            )
        )
        return made

    @classmethod
    def for_ci(
        cls, audience: str, url: str | None = None, *, trust_rule: str | None = None, patience_seconds: float = 60
    ) -> Self:
        """In a run of GitHub Actions with `permissions: {id-token: write}`: as `for_token`, with a token of the run's
        own for `audience`, and again before the key ends, as long as the client lives.

        Raises:
            EspalierError: this run may not ask for tokens.
        """
        made = cls.__new__(cls)
        made._twin = AsyncClient.for_ci(
            audience, url, trust_rule=trust_rule, patience_seconds=patience_seconds, wire=BlockingWire
        )
        return made

    close = blocking(AsyncClient.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    upload_model = blocking(AsyncClient.upload_model)
    upload_dataset = blocking(AsyncClient.upload_dataset)
    model = blocking(AsyncClient.model)
    dataset = blocking(AsyncClient.dataset)
    models = iterating(AsyncClient.models)
    datasets = iterating(AsyncClient.datasets)
    delete_model = blocking(AsyncClient.delete_model)
    delete_dataset = blocking(AsyncClient.delete_dataset)

    create_job = blocking(AsyncClient.create_job)
    plan_job = blocking(AsyncClient.plan_job)
    update_job = blocking(AsyncClient.update_job)
    job = blocking(AsyncClient.job)
    jobs = iterating(AsyncClient.jobs)
    cancel = blocking(AsyncClient.cancel)
    pause = blocking(AsyncClient.pause)
    resume = blocking(AsyncClient.resume)
    retry = blocking(AsyncClient.retry)
    delete_job = blocking(AsyncClient.delete_job)
    rounds = blocking(AsyncClient.rounds)
    round = blocking(AsyncClient.round)
    follow = iterating(AsyncClient.follow)
    events = iterating(AsyncClient.events)
    wait = blocking(AsyncClient.wait)

    report = blocking(AsyncClient.report)
    artifacts = blocking(AsyncClient.artifacts)
    artifact = blocking(AsyncClient.artifact)
    download = blocking(AsyncClient.download)
    pareto = blocking(AsyncClient.pareto)
    pareto_csv = blocking(AsyncClient.pareto_csv)
    sensitivity = blocking(AsyncClient.sensitivity)
    sensitivity_csv = blocking(AsyncClient.sensitivity_csv)
    download_plot = blocking(AsyncClient.download_plot)
    link = blocking(AsyncClient.link)
    provenance = blocking(AsyncClient.provenance)
    provenance_key = blocking(AsyncClient.provenance_key)

    create_webhook = blocking(AsyncClient.create_webhook)
    webhook = blocking(AsyncClient.webhook)
    webhooks = iterating(AsyncClient.webhooks)
    update_webhook = blocking(AsyncClient.update_webhook)
    delete_webhook = blocking(AsyncClient.delete_webhook)
    rotate_webhook = blocking(AsyncClient.rotate_webhook)
    ping_webhook = blocking(AsyncClient.ping_webhook)
    deliveries = iterating(AsyncClient.deliveries)
    redeliver = blocking(AsyncClient.redeliver)

    create_key = blocking(AsyncClient.create_key)
    key = blocking(AsyncClient.key)
    keys = iterating(AsyncClient.keys)
    update_key = blocking(AsyncClient.update_key)
    rotate_key = blocking(AsyncClient.rotate_key)
    revoke_key = blocking(AsyncClient.revoke_key)
    create_project = blocking(AsyncClient.create_project)
    project = blocking(AsyncClient.project)
    projects = iterating(AsyncClient.projects)
    update_project = blocking(AsyncClient.update_project)
    delete_project = blocking(AsyncClient.delete_project)
    create_trust_rule = blocking(AsyncClient.create_trust_rule)
    trust_rule = blocking(AsyncClient.trust_rule)
    trust_rules = iterating(AsyncClient.trust_rules)
    update_trust_rule = blocking(AsyncClient.update_trust_rule)
    delete_trust_rule = blocking(AsyncClient.delete_trust_rule)
    audit_log = iterating(AsyncClient.audit_log)

    strategies = blocking(AsyncClient.strategies)
    capabilities = blocking(AsyncClient.capabilities)
    readiness = blocking(AsyncClient.readiness)
    workers = blocking(AsyncClient.workers)
    metrics = blocking(AsyncClient.metrics)
    request = blocking(AsyncClient.request)
