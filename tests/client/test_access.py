from __future__ import annotations

from typing import Any

import pytest
from espalier import ApiError, Client


def test_a_key_is_made_rotated_and_revoked(api: Any, client: Client) -> None:
    made = client.create_key("ci", ["read"])
    with Client(api.url, made["key"]) as reader:
        list(reader.jobs())
        with pytest.raises(ApiError, match="insufficient_scope"):
            reader.create_key("more", ["admin"])
    new = client.rotate_key(made["id"], overlap_seconds=0)
    client.revoke_key(new["id"])
    for key in (made, new):
        with Client(api.url, key["key"]) as closed, pytest.raises(ApiError, match="401"):
            list(closed.jobs())
    listed = list(client.keys())
    by_id = {key["id"]: key["status"] for key in listed}
    assert (by_id[made["id"]], by_id[new["id"]]) == ("expired", "revoked")


def test_a_token_that_no_rule_takes(api: Any) -> None:
    with pytest.raises(ApiError) as caught:
        Client.for_token("a.b.c", api.url)
    assert (caught.value.status, caught.value.code) == (403, "token_refused")
