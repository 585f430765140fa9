"""`make zoo`: networks of many families, exported as a user would, read, trained, pruned and taken home again.

`families` (what is tried), `packages` (how timm and torchvision are imported), `trial` (what is done with one family,
in a process of its own), `running` (those processes), `page` (docs/models.md).
"""
