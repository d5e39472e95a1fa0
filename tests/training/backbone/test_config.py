from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from training.backbone.config import BackboneConfig

GOOD = BackboneConfig(vocab=64, width=48, layers=2, heads=4, positions=16, causal=True, norm="pre", embedding_norm=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 50}, "width 50 is not a multiple of heads 4; 5 heads would do"),
        ({"heads": 0}, "heads is 0; it must be at least 1"),
        ({"layers": -1}, "layers is -1"),
        ({"vocab": 0}, "vocab is 0"),
        ({"positions": 0}, "positions is 0"),
        ({"ffn": -4}, "ffn is -4"),
        ({"segments": -1}, "segments is -1; it must be 0"),
        ({"norm": "middle"}, "norm is 'middle'; choose one of pre, post"),
        ({"activation": "swish"}, "choose one of gelu, gelu_tanh, relu"),
        ({"share": "some"}, "choose one of none, attention, ffn, all"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"eps": 0.0}, "eps is 0.0; it must be above 0"),
        ({"init_std": -1.0}, "init_std is -1.0"),
        ({"band": 4, "causal": False}, "set causal, or band to 0"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_to_change(change: dict, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        replace(GOOD, **change)
    assert message in str(raised.value)


def test_what_is_left_out_follows_from_the_width() -> None:
    assert (GOOD.ffn, GOOD.embedding_width, GOOD.head_width) == (192, 48, 12)


def test_attention_dropout_follows_dropout_until_it_is_given() -> None:
    assert replace(GOOD, dropout=0.3).attention_rate == 0.3
    assert replace(GOOD, dropout=0.3, attention_dropout=0.0).attention_rate == 0.0


@given(st.integers(1, 64), st.integers(1, 64))
def test_heads_divide_the_width_or_the_message_names_heads_that_do(width: int, heads: int) -> None:
    try:
        replace(GOOD, width=width, heads=heads, ffn=0, embedding_width=0)
    except ConfigError as error:
        assert width % heads
        assert width % int(str(error).split("; ")[1].split()[0]) == 0
    else:
        assert width % heads == 0


def test_a_config_survives_a_card() -> None:
    assert BackboneConfig(**asdict(GOOD)) == GOOD
