"""Names to classes: every fault is found, named by path, before anything is built."""

import pytest

from object_centric_bench import registry
from object_centric_bench.registry import ConfigError, build, check, faults, register


@pytest.fixture(autouse=True)
def classes(monkeypatch):
    """A registry of our own, so that tests neither see nor leave classes."""
    monkeypatch.setattr(registry, "CLASSES", {})

    @register
    class Decoder:
        def __init__(self, num_layers: int, dropout: float = 0.0, sizes: list[int] | None = None):
            if num_layers < 1:
                raise ValueError(f"num_layers must be 1 or more, not {num_layers}")
            self.num_layers, self.dropout, self.sizes = num_layers, dropout, sizes

    @register
    class Model:
        def __init__(self, decoder: Decoder, params=None):
            self.decoder, self.params = decoder, params


def test_build_constructs_depth_first_and_takes_runtime_arguments():
    model = build({"type": "Model", "decoder": {"type": "Decoder", "num_layers": 2}}, "model", params=[1])
    assert (model.decoder.num_layers, model.params) == (2, [1])


def test_every_fault_is_named_at_once_with_its_path_and_a_suggestion():
    cfg = {
        "model": {"type": "Model", "decoder": {"type": "Decoder", "num_layer": 2}, "extra": 1},
        "x": {"type": "Modle"},
    }
    with pytest.raises(ConfigError) as caught:
        check(cfg, "")
    lines = str(caught.value).splitlines()
    assert lines == [
        "model.decoder.num_layer: Decoder takes no 'num_layer'; did you mean 'num_layers'?",
        "model.decoder.num_layers: missing, Decoder requires it",
        "model.extra: Model takes no 'extra'; known: decoder, params",
        "x.type: no class 'Modle'; did you mean 'Model'?",
    ]


@pytest.mark.parametrize(
    ("argument", "value", "wanted"),
    [("num_layers", "2", "int"), ("num_layers", True, "int"), ("dropout", "no", "float"), ("sizes", [1, "a"], "list")],
)
def test_a_value_of_the_wrong_type_is_a_fault(argument, value, wanted):
    (message,) = faults({"type": "Decoder", **{"num_layers": 1, argument: value}}, "model.decoder")
    assert message.startswith(f"model.decoder.{argument}: Decoder wants ")
    assert wanted in message
    assert repr(value) in message


def test_ints_are_fine_as_floats_and_objects_as_anything():
    assert not list(faults({"type": "Decoder", "num_layers": 1, "dropout": 0, "sizes": None}, "d"))
    assert not list(faults({"type": "Model", "decoder": {"type": "Decoder", "num_layers": 1}}, "m"))


def test_runtime_arguments_may_not_stand_in_a_config():
    (message,) = faults({"type": "Model", "decoder": None, "params": 1}, "m", {"m": ["params"]})
    assert "takes no 'params'" in message


def test_a_constructors_refusal_carries_the_config_path():
    with pytest.raises(ConfigError, match=r"model\.decoder: num_layers must be 1 or more, not 0"):
        build({"type": "Model", "decoder": {"type": "Decoder", "num_layers": 0}}, "model")


def test_a_taken_name_and_hidden_arguments_are_refused():
    with pytest.raises(ValueError, match="registered already"):
        register(type("Model", (), {"__module__": "elsewhere"}))

    class Greedy:
        def __init__(self, **options):
            pass

    with pytest.raises(ValueError, match="options"):
        register(Greedy)
