"""`python -m espalier`."""

from espalier.cli import run

run()
