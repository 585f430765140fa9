from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from pruning.augmentation import augmenter, cropped, flipped
from pruning.batches import batches
from pruning.data import Split
from pruning.schedules import RecipeRefused
from pruning.training_options import Augmentation, Training

IMAGES = torch.arange(1, 3 * 2 * 2 * 3 + 1).view(3, 2, 2, 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_by_hand(dtype) -> None:
    images = IMAGES.to(dtype)
    mirrored = flipped(images, torch.tensor([True, False, True]))
    assert mirrored.dtype == dtype
    assert mirrored[0, 0].tolist() == [[3, 2, 1], [6, 5, 4]]
    assert torch.equal(mirrored[1], images[1])
    windows = cropped(images, 1, torch.tensor([[1, 0, 2], [1, 2, 0]]))
    assert windows.dtype == dtype
    assert torch.equal(windows[0], images[0]), "the middle"
    assert windows[1, 0].tolist() == [[0, 0, 0], [14, 15, 0]], "down, and to the right, zeros come in"
    assert windows[2, 0].tolist() == [[0, 28, 29], [0, 0, 0]]


def test_every_place_and_either_side_come_up() -> None:
    images = torch.zeros(4000, 1, 3, 5, dtype=torch.uint8)
    images[:, 0, 1, 1] = 1
    augment = augmenter(Augmentation(flip=True, crop_padding=1), images, 0, 0)
    assert augment is not None
    places = torch.bincount(augment(images, 0).flatten(1).float().argmax(1), minlength=15)
    # Nine places for either side, in all 3 x (columns 0..4), column 2 of both sides.
    expected = 4000 * torch.tensor([1, 1, 2, 1, 1] * 3) / 18
    torch.testing.assert_close(places.float(), expected, rtol=0.25, atol=0)
    assert augmenter(Augmentation(), images, 0, 0) is None


def test_an_epoch_draws_by_seed_and_epoch_and_place_alone() -> None:
    images = torch.randint(0, 255, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def whole(seed: int, epoch: int) -> torch.Tensor:
        return augmenter(Augmentation(flip=True, crop_padding=2), images, seed, epoch)(images, 0)

    parts = augmenter(Augmentation(flip=True, crop_padding=2), images, 7, 3)
    assert torch.equal(torch.cat([parts(images[:20], 0), parts(images[20:], 20)]), whole(7, 3))
    assert not torch.equal(whole(7, 3), whole(7, 4))
    assert not torch.equal(whole(7, 3), whole(8, 3))


def test_batches_are_augmented_before_they_are_scaled() -> None:
    split = Split(torch.full((32, 1, 4, 4), 100, dtype=torch.uint8), torch.zeros(32, dtype=torch.int64))
    training = Training.model_validate(
        {
            "steps": 1,
            "batch_size": 32,
            "optimizer": {"name": "sgd", "lr": 1},
            "augmentation": {"crop_padding": 1},
            "preprocessing": {"scale": 0.5, "mean": 3},
        }
    )
    inputs, _ = next(batches(split, training, nn.Identity(), 0))
    assert set(inputs.unique().tolist()) == {-3.0, 47.0}


def test_only_images_are_augmented() -> None:
    for shape in ((4, 9), (4, 1, 9), (4, 1, 3, 3, 3)):
        with pytest.raises(RecipeRefused, match="no images") as caught:
            augmenter(Augmentation(flip=True), torch.zeros(shape), 0, 0)
        assert caught.value.field == ("training", "augmentation")


def test_a_batch_takes_two_milliseconds() -> None:
    images = torch.zeros(128, 3, 32, 32, dtype=torch.uint8)
    augment = augmenter(Augmentation(flip=True, crop_padding=4), images, 0, 0)
    taken = []
    for _ in range(50):
        started = time.process_time()
        augment(images, 0)
        taken.append(time.process_time() - started)
    assert sorted(taken)[25] < 0.004, "twice what it takes on a quiet machine"
