"""Every command that these pages name is one that there is, with these arguments. Those that can be run without more
than a service are run by tests/end_to_end/test_client_docs.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from espalier.cli import cli

DOCS = Path(__file__).parents[2] / "docs"


def commands(document: str) -> list[str]:
    shown = (DOCS / document).read_text()
    text = "\n".join(re.findall(r"^```(?:sh|bash)\n(.*?)^```", shown, re.DOTALL | re.MULTILINE))
    lines = text.replace("\\\n", " ").splitlines()
    return [re.sub(r'\)"?$', "", match[1]) for line in lines if (match := re.search(r"(?:^|\$\()(espalier .*)", line))]


def parsed(words: list[str]) -> click.Context:
    """The last command's own context; its arguments are checked, and it is not run."""
    command: click.Command = cli
    parent: click.Context | None = None
    while isinstance(command, click.Group):
        parent = command.make_context(command.name, words, parent=parent)
        name, command, words = command.resolve_command(parent, [*parent._protected_args, *parent.args])
        assert name is not None
    return command.make_context(command.name, words, parent=parent)


PAGES = ("cli.md", "quickstart.md", "../README.md")


@pytest.mark.parametrize("line", [line for page in PAGES for line in commands(page)])
def test_a_documented_command_is_one(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)[1:]
    for word in words:
        if word in ("mnist", "flowers", "rated"):
            Path(word).mkdir()
        elif re.search(r"\.(csv|npy|npz|pt2|json|pem|safetensors)$", word):
            Path(word).parent.mkdir(exist_ok=True)
            Path(word).touch()
    parsed(words).close()


def test_all_commands_are_documented() -> None:
    named = " ".join(commands("cli.md"))

    def leaves(command: click.Command, name: str) -> list[str]:
        if isinstance(command, click.Group):
            return [leaf for sub, inner in command.commands.items() for leaf in leaves(inner, f"{name} {sub}")]
        return [name]

    assert [leaf for leaf in leaves(cli, "espalier") if leaf not in named and leaf != "espalier jobs watch"] == []
    assert len(commands("cli.md")) > 25
