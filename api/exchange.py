"""A CI's token becomes a short key, by a trust rule, once."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.access_documents import TokenDocument
from api.issuers import LEEWAY_SECONDS, IssuerAway, Refused, unverified
from api.problems import Problem
from api.services import Services
from store import audit, listing
from store.audit import Actor
from store.database import now
from store.keys import add_key
from store.tables import ApiKey, ExchangedToken, TrustRule

log = logging.getLogger(__name__)

MAX_RULES = 20
"""That are tried for one token, and told of one that was refused; with more, it says which one it means."""
_KEPT_SECONDS = 24 * 3600.0
"""Keys of exchanged tokens are listed for so long after their end."""
_MARGIN_SECONDS = 3600.0
"""Clocks of the database and of this process differ by less."""


def exchange(services: Services, token: str, trust_rule_id: str | None, request_id: str) -> TokenDocument:
    """Raises Problem: one text for whatever was wrong. The reasons are in the audit logs of the projects whose rules
    name the token's issuer; a stranger learns from the answer neither rules nor projects."""
    try:
        _, claimed = unverified(token)
    except Refused as error:
        log.info("request %s: a token was refused: %s", request_id, error)
        raise _refused() from None
    rules = _rules_of(services, claimed.get("iss"), trust_rule_id)
    taken, reasons, is_away = _try_all(services, rules, token, claimed)
    if len(taken) == 1:
        [(rule, claims)] = taken
        try:
            return _issue(services, rule, token, claims, request_id)
        except Refused as error:
            reasons = [(rule, str(error))]
    elif taken:
        reasons = [(rule, "several rules take it; send trust_rule with it") for rule, _ in taken]
    if not rules:
        log.info("request %s: a token was refused: no rule names its issuer", request_id)
    with services.database.transaction() as session:
        for rule, reason in reasons:
            subject = _printable(claimed.get("sub"))
            actor = Actor(rule.project_id, None, request_id)
            audit.record(
                session, "token.exchange", rule.id, outcome="refused", actor=actor, reason=reason, subject=subject
            )
    if is_away and not taken:
        raise Problem(
            "unavailable",
            "the keys of the token's issuer cannot be fetched at the moment",
            headers={"Retry-After": "10"},
        )
    raise _refused()


def _try_all(
    services: Services, rules: list[TrustRule], token: str, claimed: dict[str, Any]
) -> tuple[list[tuple[TrustRule, dict[str, Any]]], list[tuple[TrustRule, str]], bool]:
    """(the rules that take it, with its claims; those that do not, with the reason; whether an issuer was away)."""
    apart, fitting = [], []
    for rule in rules:
        # Before anything is fetched: whoever makes a token up does not make us ask its issuer.
        try:
            check_claims(rule, claimed)
            fitting.append(rule)
        except Refused as error:
            apart.append((rule, str(error)))
    taken, reasons, is_away = [], [], False
    for rule in fitting[:MAX_RULES]:
        try:
            claims = services.issuers.verify(token, issuer=rule.issuer, audience=rule.audience, jwks_url=rule.jwks_url)
            taken.append((rule, claims))
        except Refused as error:
            reasons.append((rule, str(error)))
        except IssuerAway as error:
            is_away = True
            reasons.append((rule, f"the issuer's keys could not be fetched: {error}"))
    return taken, (reasons + apart)[:MAX_RULES], is_away


def _rules_of(services: Services, issuer: Any, trust_rule_id: str | None) -> list[TrustRule]:
    if not isinstance(issuer, str) or "\0" in issuer or not issuer.isprintable():
        return []
    wanted = select(TrustRule).where(TrustRule.issuer == issuer).order_by(TrustRule.id).limit(1000)
    if trust_rule_id is not None:
        wanted = wanted.where(TrustRule.id == trust_rule_id)
    with services.database.reading() as session:
        return list(session.scalars(wanted))


def check_claims(rule: TrustRule, claims: dict[str, Any]) -> None:
    """What the rule asks of the claims themselves. Raises Refused."""
    audience = claims.get("aud")
    if rule.audience not in (audience if isinstance(audience, list) else [audience]):
        raise Refused("aud: it was issued for another audience")
    for claim, pattern in rule.conditions.items():
        value = claims.get(claim)
        if isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(value, str | int) or not matches(pattern, str(value)):
            raise Refused(f"{claim}: it is not {pattern}")


def matches(pattern: str, value: str) -> bool:
    """`*` stands for any characters, and nothing else for anything but itself. In one pass: as a regular expression a
    pattern of many stars would let a stranger's claim keep us busy for hours."""
    first, *rest = pattern.split("*")
    if not rest:
        return value == pattern
    *between, last = rest
    at, end = len(first), len(value) - len(last)
    if at > end or not value.startswith(first) or not value.endswith(last):
        return False
    for part in between:
        found = value.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _issue(services: Services, rule: TrustRule, token: str, claims: dict[str, Any], request_id: str) -> TokenDocument:
    """Raises Refused: it was exchanged before, or the rule has changed in this moment."""
    try:
        with services.database.transaction() as session:
            current = listing.one(session, TrustRule, rule.project_id, rule.id, lock="refer")
            if current is None:
                raise Refused("the rule is being deleted")
            check_claims(current, claims)
            _forget_old(session)
            session.add(ExchangedToken(digest=_identity(token, claims), expires_at=claims["exp"] + LEEWAY_SECONDS))
            session.flush()
            row, key = add_key(
                session,
                project_id=current.project_id,
                name=f"{current.name}: {_printable(claims.get('sub'))}"[:200],
                scopes=current.scopes,
                expires_at=now() + current.key_seconds,
                trust_rule_id=current.id,
            )
            actor = Actor(current.project_id, row.id, request_id)
            subject = _printable(claims.get("sub"))
            audit.record(session, "token.exchange", current.id, actor=actor, subject=subject, scopes=row.scopes)
    except IntegrityError:
        raise Refused("jti: it was exchanged before") from None
    return TokenDocument(
        access_token=key,
        issued_token_type="urn:ietf:params:oauth:token-type:access_token",  # noqa: S106 - the name of a type
        token_type="Bearer",  # noqa: S106
        expires_in=current.key_seconds,
        scope=" ".join(row.scopes),
        project=row.project_id,
        key=row.id,
    )


def _identity(token: str, claims: dict[str, Any]) -> str:
    """By its `jti`; else by what is signed. Not by the signature: some kinds have a second form that is as good."""
    jti = claims.get("jti")
    what = f"jti {claims['iss']} {jti}" if isinstance(jti, str) and jti else f"signed {token.rpartition('.')[0]}"
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()


def _forget_old(session: Session) -> None:
    session.execute(delete(ExchangedToken).where(ExchangedToken.expires_at < now() - _MARGIN_SECONDS))
    ended = ApiKey.trust_rule_id.is_not(None) & (ApiKey.expires_at < now() - _KEPT_SECONDS)
    session.execute(delete(ApiKey).where(ended))


def _printable(text: Any) -> str:
    """What a stranger wrote, as far as every database stores it."""
    return "".join(c for c in str(text)[:200] if c.isprintable())


def _refused() -> Problem:
    return Problem(
        "token_refused",
        "no trust rule takes this token: its issuer, audience, claims and times must be as a rule says, its signature "
        "right, and it is exchanged once; GET /v1/audit_log tells the project's admin what was wrong",
        param="/token",
    )
