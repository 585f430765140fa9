"""The papers' experiments, run by the engine that serves jobs. One command each; docs/reproduction.md has the results."""
