"""What is tried: of each family its smallest member, on examples as small as it takes, with ten classes.

Weights are drawn from a seed. Nothing is imported before a network is made: each is made in a process of its own.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from zoo import networks
from zoo.packages import import_timm, import_torchvision

NUM_CLASSES = 10
VOCABULARY = 50


@dataclass(frozen=True)
class Family:
    """
    Attributes:
        name: package:family.
        member: the network tried.
        input_shape: of one example.
        takes_tokens: whether examples are whole numbers below `VOCABULARY`.
    """

    name: str
    member: str
    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    takes_tokens: bool = False


# family: (member, image size, whether the network is made for that size). A size of its own is what it is made for;
# convolutions take any, 64 or the least that their strides leave something of.
_TIMM: dict[str, tuple[str, int, bool]] = {
    "beit": ("beit_base_patch16_224", 64, True),
    "byoanet": ("halonet_h1", 256, False),
    "byobnet": ("mobileone_s0", 64, False),
    "cait": ("cait_xxs24_224", 64, True),
    "coat": ("coat_lite_tiny", 64, True),
    "convit": ("convit_tiny", 64, True),
    "convmixer": ("convmixer_768_32", 64, False),
    "convnext": ("test_convnext", 64, False),
    "crossvit": ("crossvit_tiny_240", 240, False),
    "cspnet": ("cs3darknet_s", 64, False),
    "cspnext": ("cspnext_tiny", 64, False),
    "davit": ("davit_tiny", 64, False),
    "deit": ("deit_tiny_patch16_224", 64, True),
    "densenet": ("densenet121", 64, False),
    "dla": ("dla46_c", 64, False),
    "dpn": ("dpn48b", 64, False),
    "edgenext": ("edgenext_xx_small", 64, False),
    "efficientformer": ("efficientformer_l1", 224, False),
    "efficientformer_v2": ("efficientformerv2_s0", 224, False),
    "efficientnet": ("efficientnet_b0", 64, False),
    "efficientvit_mit": ("efficientvit_b0", 64, False),
    "efficientvit_msra": ("efficientvit_m0", 224, False),
    "eva": ("eva02_tiny_patch14_224", 56, True),
    "fasternet": ("fasternet_t0", 64, False),
    "fastvit": ("fastvit_t8", 64, False),
    "focalnet": ("focalnet_tiny_srf", 64, False),
    "gcvit": ("gcvit_xxtiny", 224, False),
    "ghostnet": ("ghostnet_050", 64, False),
    "hardcorenas": ("hardcorenas_a", 64, False),
    "hgnet": ("hgnetv2_b0", 64, False),
    "hiera": ("hiera_tiny_224", 224, False),
    "hrnet": ("hrnet_w18_small", 64, False),
    "iformer": ("iformer_t", 64, False),
    "inception_next": ("inception_next_atto", 64, False),
    "inception_v3": ("inception_v3", 96, False),
    "inception_v4": ("inception_v4", 96, False),
    "lcnetv2": ("lcnetv2_small", 64, False),
    "levit": ("levit_128s", 224, False),
    "mambaout": ("test_mambaout", 64, False),
    "maxxvit": ("maxvit_pico_rw_256", 64, True),
    "metaformer": ("poolformer_s12", 64, False),
    "mlp_mixer": ("gmlp_ti16_224", 64, True),
    "mobilenetv3": ("mobilenetv3_small_050", 64, False),
    "mobilevit": ("mobilevit_xxs", 64, False),
    "mvitv2": ("mvitv2_tiny", 64, True),
    "nest": ("nest_tiny", 128, True),
    "nextvit": ("nextvit_small", 64, False),
    "nfnet": ("nf_regnet_b0", 64, False),
    "pit": ("pit_ti_224", 64, True),
    "pvt_v2": ("pvt_v2_b0", 64, False),
    "rdnet": ("rdnet_tiny", 64, False),
    "regnet": ("regnety_002", 64, False),
    "repghost": ("repghostnet_050", 64, False),
    "repvit": ("repvit_m0_9", 64, False),
    "res2net": ("res2net50_14w_8s", 64, False),
    "resnest": ("resnest14d", 64, False),
    "resnet": ("resnet10t", 64, False),
    "resnetv2": ("resnetv2_18", 64, False),
    "rexnet": ("rexnet_100", 64, False),
    "selecsls": ("selecsls42", 64, False),
    "senet": ("legacy_seresnet18", 64, False),
    "sequencer": ("sequencer2d_s", 64, True),
    "shvit": ("shvit_s1", 64, False),
    "sknet": ("skresnet18", 64, False),
    "starnet": ("starnet_s050", 64, False),
    "swiftformer": ("swiftformer_xs", 224, False),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 56, True),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 64, True),
    "tiny_vit": ("tiny_vit_5m_224", 224, False),
    "tnt": ("tnt_s_patch16_224", 64, True),
    "tresnet": ("tresnet_m", 64, False),
    "twins": ("twins_pcpvt_small", 64, True),
    "vgg": ("vgg11_bn", 64, False),
    "visformer": ("visformer_tiny", 64, True),
    "vision_transformer": ("test_vit", 64, True),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 64, True),
    "vision_transformer_relpos": ("test_vit_relpos", 64, True),
    "volo": ("volo_d1_224", 64, True),
    "vovnet": ("ese_vovnet19b_slim_dw", 64, False),
    "xception": ("legacy_xception", 96, False),
    "xcit": ("xcit_nano_12_p16_224", 64, True),
}

_TORCHVISION = {
    "resnet": ("resnet18", 64),
    "resnet, bottlenecks": ("resnet50", 64),
    "vgg": ("vgg11_bn", 64),
    "mobilenet v2": ("mobilenet_v2", 64),
    "mobilenet v3": ("mobilenet_v3_small", 64),
    "vit": ("vit_b_16", 64),
}

_TRANSFORMERS = {"bert": networks.bert, "gpt2": networks.gpt2}


def _timm(member: str, size: int, is_made_for_it: bool) -> nn.Module:
    options = {"img_size": size} if is_made_for_it else {}
    made: nn.Module = import_timm().create_model(member, pretrained=False, num_classes=NUM_CLASSES, **options)
    return made


def _torchvision(member: str, size: int) -> nn.Module:
    models = importlib.import_module(f"{import_torchvision().__name__}.models")
    options = {"image_size": size} if member.startswith("vit") else {}
    made: nn.Module = getattr(models, member)(weights=None, num_classes=NUM_CLASSES, **options)
    return made


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(
            Family(f"timm:{name}", member, functools.partial(_timm, member, size, fixed), (3, size, size))
            for name, (member, size, fixed) in _TIMM.items()
        ),
        *(
            Family(f"torchvision:{name}", member, functools.partial(_torchvision, member, size), (3, size, size))
            for name, (member, size) in _TORCHVISION.items()
        ),
        *(
            Family(f"transformers:{name}", make.__name__, functools.partial(make, VOCABULARY, NUM_CLASSES), (12,), True)
            for name, make in _TRANSFORMERS.items()
        ),
        Family("torch:lstm", "nn.LSTM", functools.partial(networks.Recurrent, nn.LSTM, NUM_CLASSES), (12, 8)),
        Family("torch:gru", "nn.GRU", functools.partial(networks.Recurrent, nn.GRU, NUM_CLASSES), (12, 8)),
        Family("torch:transformer", "nn.TransformerEncoder", lambda: networks.Encoder(NUM_CLASSES), (12, 8)),
        Family("torch:tied", "tied weights", lambda: networks.Tied(VOCABULARY, NUM_CLASSES), (12,), True),
    )
}
