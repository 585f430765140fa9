"""The papers' experiments, run by the engine that serves jobs. One command each. Results: docs/reproduction.md."""
