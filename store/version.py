"""The service's version, as every part of it says it."""

VERSION = "0.1.0"
