"""Iterative pruning of PyTorch networks: torch and numbers, no HTTP, no database.

Importing this package or its `recipe`, `strategies`, `schedules` and `selection` leaves torch out.
"""
