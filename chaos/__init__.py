"""`make chaos`: the real service under a seeded schedule of faults, then a check of every row and file it left."""
