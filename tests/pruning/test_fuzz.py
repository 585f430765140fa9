"""A few hundred variations of each kind of upload; `make fuzz` makes them without end."""

from __future__ import annotations

import random

import pytest

from fuzz.readers import READERS, read
from fuzz.seeds import SEEDS
from fuzz.variations import vary
from fuzz.watch import Watch

NUM_VARIATIONS = {"program": 150, "npz": 300, "safetensors": 300, "weights": 100}


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


def bytewise(chance: random.Random):
    def change(data: bytes) -> bytes:
        changed = bytearray(data or b"\0")
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(len(changed))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        return bytes(changed[: chance.choice([len(changed)] * 4 + [len(changed) // 2])])

    return change


@pytest.mark.parametrize("reader", READERS)
def test_variations_are_taken_or_refused_and_nothing_else_happens(reader, watch, tmp_path) -> None:
    goods, case, taken = list(SEEDS[reader]()), tmp_path / "case", 0
    for good in goods:
        case.write_bytes(good)
        assert read(reader, case)
    for seed in range(NUM_VARIATIONS[reader]):
        data = vary(goods[seed % len(goods)], seed, bytewise(random.Random(seed)))
        case.write_bytes(data)
        watch.begin()
        try:
            taken += read(reader, case)
        except Exception as error:
            error.add_note(f"variation {seed}")
            raise
        finally:
            seen = watch.end()
        assert not seen, f"variation {seed}"
    assert 0 < taken < NUM_VARIATIONS[reader]


def test_the_watch_sees_what_must_never_happen(watch, tmp_path) -> None:
    watch.begin()
    exec(compile("x = 1", "<string>", "exec"))
    (tmp_path / "written").write_text("x")
    seen = watch.end()
    assert [event.split()[0] for event in seen] == ["exec", "open"]
