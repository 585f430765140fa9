"""The OpenAPI document as a page of Markdown: `python -m api.reference > docs/api.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from api.app import create_app
from api.examples import EXAMPLES
from api.problems import PROBLEMS

_HEAD = """# The HTTP API

Made from the service's own OpenAPI document (`GET /openapi.json`, shown at `/docs`) by
`python -m api.reference > docs/api.md`; a test keeps it so. Keys go into `Authorization: Bearer KEY`. *Scope* is what a
key needs; `admin` implies the others. Codes are those of [problems](#problems).
"""
_OF_ALL = ("unauthorized", "insufficient_scope", "cross_site", "rate_limited", "internal_error", "unavailable")


def reference() -> str:
    document = create_app().openapi()
    parts = [_HEAD]
    by_tag: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            section = "\n".join(_operation(method.upper(), path, operation))
            by_tag.setdefault(operation["tags"][0], []).append(section)
    for tag, sections in by_tag.items():
        parts += [f"## {tag.capitalize()}\n", *sections]
    return "\n".join([*parts, *_messages(document), *_problems()])


def _messages(document: dict[str, Any]) -> Iterator[str]:
    yield "## Messages to webhooks\n"
    for type_, item in document["webhooks"].items():
        [body] = item["post"]["requestBody"]["content"].values()
        yield f"- `{type_}`: {_type(body['schema'])}\n\n  ```json\n  {json.dumps(body['example'])}\n  ```"
    yield ""


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"### {method} {path}\n"
    if description := operation.get("description"):
        yield description + "\n"
    scope = f"scope `{operation['x-scope']}`" if "x-scope" in operation else "no scope"
    yield f"- Needs: {scope if operation.get('security') else 'no key'}"
    for parameter in operation.get("parameters", []):
        needed = ", required" if parameter.get("required") and parameter["in"] != "path" else ""
        said = f": {parameter['description']}" if parameter.get("description") else ""
        yield f"- `{parameter['name']}` ({parameter['in']}, {_type(parameter['schema'])}{needed}){said}"
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"- Body: {_type(body['schema'])}, `{media_type}`"
        if "example" in body:
            yield f"\n  ```json\n  {json.dumps(body['example'])}\n  ```\n"
    codes = set()
    for status, answer in sorted(operation["responses"].items()):
        if status >= "4":
            codes |= {code for code in PROBLEMS if f"`{code}`" in answer["description"]}
        else:
            types = [f"{_type(c.get('schema', {}))}, `{name}`" for name, c in answer.get("content", {}).items()]
            yield f"- {status}: {'; '.join(types) or 'no body'}"
    told = [f"`{code}`" for code in PROBLEMS if code in codes and code not in _OF_ALL]
    if told:
        yield f"- Refuses with: {', '.join(told)}" + (", and those of all" if "unauthorized" in codes else "")
    yield ""


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return "`" + str(schema["$ref"]).rpartition("/")[2] + "`"
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(_type(branch) for branch in schema[word]))
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return str(schema.get("format") or schema.get("type") or "any")


def _problems() -> Iterator[str]:
    yield "## Problems\n"
    yield "Every refusal is `application/problem+json` (RFC 9457), such as this:\n"
    yield "```json\n" + json.dumps(EXAMPLES["invalid_request"], indent=2) + "\n```\n"
    codes = ", ".join(f"`{code}`" for code in _OF_ALL)
    yield f"Of all operations that need a key: {codes}.\n"
    yield "| code | status | retryable | meaning | such as |\n|---|---|---|---|---|"
    for code, kind in PROBLEMS.items():
        example = EXAMPLES[code]
        where = f" (`param`: `{example['param']}`)" if example["param"] else ""
        retryable = "yes" if kind.retryable else "no"
        yield f"| `{code}` | {kind.status} | {retryable} | {kind.title} | {example['detail']}{where} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(reference())
