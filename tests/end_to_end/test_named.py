"""Architectures of other packages by name: built by a real worker in its sandbox, without a download."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest
import torch
from espalier import Client, NotReady, apply
from safetensors.torch import save
from torch import nn

from pruning.formats.families import import_package
from pruning.formats.names import installed_families

TINY_BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


def needs(family: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(family not in installed_families(), reason=f"{family} is not installed here")


def made(http: httpx2.Client, client: Client, **query: Any) -> dict[str, Any]:
    """A model of fresh weights, once it is ready."""
    answer = http.post("/v1/models", params={"format": "architecture", **query})
    assert answer.status_code == 201, answer.text
    return validated(client, answer.json()["id"])


def validated(client: Client, model_id: str) -> Any:
    """Raises NotReady where it is invalid; how long it may take is for the test's own limit to say."""
    while (model := client.model(model_id))["status"] == "validating":
        time.sleep(0.1)
    if model["status"] == "invalid":
        raise NotReady(model)
    return model


@needs("timm")
def test_timm(http: httpx2.Client, client: Client) -> None:
    query = {"architecture": "timm:resnet10t", "input_shape": "1,32,32", "num_classes": 4, "seed": 3}
    model = made(http, client, **query)
    assert (model["input_shape"], model["num_outputs"]) == ([1, 32, 32], 4)
    assert model["source"]["recorded"] == "training"
    assert model["source"]["built_with"].startswith("timm ")
    assert any("unit" in layer["prunable"] for layer in model["layers"])
    assert made(http, client, **query)["sha256"] == model["sha256"], "the same seed, the same bytes"


@needs("torchvision")
def test_torchvision(http: httpx2.Client, client: Client) -> None:
    model = made(http, client, architecture="torchvision:mnasnet0_5", input_shape="3,32,32", num_classes=3)
    assert model["num_outputs"] == 3
    assert model["layers"][0]["name"] == "layers.0", "the package's own parameter names"


@needs("transformers")
def test_weights_of_transformers_come_back_pruned(client: Client, http: httpx2.Client, tmp_path: Any) -> None:
    if "torchvision" in installed_families():
        import_package("torchvision")
    transformers = import_package("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(**TINY_BERT, vocab_size=30, num_labels=2)
    bert: nn.Module = transformers.BertForSequenceClassification(config).eval()
    weights = {name: tensor.clone() for name, tensor in bert.state_dict().items()}
    answer = http.post(
        "/v1/models",
        params={
            "format": "safetensors",
            "architecture": "transformers:bert",
            "input_shape": "8",
            "num_classes": 2,
            "arguments": '{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, '
            '"intermediate_size": 48, "vocab_size": 30}',
        },
        content=save(weights),
    )
    assert answer.status_code == 201, answer.text
    model = validated(client, answer.json()["id"])
    assert (model["input_dtype"], model["input_shape"]) == ("int64", [8])
    assert model["source"]["uploaded_sha256"] == answer.json()["sha256"] != model["sha256"]

    tokens = torch.randint(0, 30, (40, 8), generator=torch.Generator().manual_seed(1))
    dataset = client.upload_dataset({"train": (tokens.numpy(), (tokens[:, 0] % 2).numpy())})
    recipe = {"strategy": "one_shot", "training": {"steps": 4, "batch_size": 8}}
    job = client.wait(client.create_job(model=model, dataset=dataset, recipe=recipe)["id"])
    assert job["status"] == "succeeded", job["error"]
    artifacts = [each for each in client.artifacts(job["id"]) if each["round"] == job["selected_round"]]
    for artifact in artifacts:
        if artifact["kind"] in ("model", "masks"):
            client.download(artifact, tmp_path / artifact["filename"])
    applied = apply(bert, tmp_path / "model.safetensors", artifacts=artifacts)
    assert applied.sparsity == pytest.approx(0.9, abs=0.01)
    assert bert(tokens[:3]).logits.shape == (3, 2)


@needs("timm")
@needs("transformers")
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"architecture": "timm:resnet19"}, "no 'resnet19' is taken; the nearest are resnet18"),
        ({"architecture": "timm:vit_gigantic_patch14_224"}, r"has 1,8\d\d,\d+,\d+ parameters, and this worker"),
        ({"architecture": "transformers:llama"}, "no 'llama' is taken; use one of albert, beit, bert"),
        ({"architecture": "transformers:bert", "arguments": '{"n_embd": 8}'}, "has no n_embd; it has .*hidden_size"),
        ({"architecture": "timm:vit_tiny_patch16_224", "arguments": '{"embed_dim": 190}'}, "cannot be built so"),
    ],
)
def test_what_a_package_has_not_is_said_by_the_worker(
    http: httpx2.Client, client: Client, query: dict[str, str], said: str
) -> None:
    with pytest.raises(NotReady, match=said):
        made(http, client, **query)


@pytest.mark.parametrize(
    ("query", "param", "said"),
    [
        ({"architecture": "timm:hf_hub:someone/model"}, "query:architecture", "there is no architecture"),
        ({"architecture": "timm:local-dir:/etc"}, "query:architecture", "there is no architecture"),
        ({"architecture": "hf_hub:someone/model"}, "query:architecture", "there is no architecture"),
        ({"architecture": "timm:../resnet18"}, "query:architecture", "there is no architecture"),
        ({"architecture": "transformers:bert", "arguments": "[1]"}, "query:arguments", "JSON object"),
        ({"architecture": "transformers:bert", "arguments": '{"hidden_size": 1e9}'}, "query:arguments", "whole number"),
        ({"architecture": "transformers:bert", "arguments": '{"num_hidden_layers": 97}'}, "query:arguments", "1 to 96"),
        ({"architecture": "timm:resnet18", "arguments": '{"pretrained": 1}'}, "query:arguments", "cannot be set"),
        ({"architecture": "lenet5", "arguments": '{"depth": 1}'}, "query:arguments", "takes no arguments"),
    ],
)
def test_what_is_no_name_and_no_argument_is_refused_at_once(
    http: httpx2.Client, query: dict[str, str], param: str, said: str
) -> None:
    answer = http.post("/v1/models", params={"format": "architecture", **query})
    assert (answer.status_code, answer.json()["param"]) == (422, param), answer.text
    assert said in answer.json()["detail"]
