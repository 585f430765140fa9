"""The measured claims, each runnable: `make bench`, and the papers' experiments under `benchmarks.reproduce`."""
