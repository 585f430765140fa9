"""What the service reads of strangers, read in endless variations: nothing may run, crash, hang or outgrow its limits.

Coverage-guided (atheris, which drives libFuzzer) and structure-aware: a variation is made inside the JSON of a program,
the headers of a zip, npy or safetensors file, and seldom of bytes alone, which the first check would refuse.
"""
