"""What `load` accepts, what it refuses, and that nothing it reads can run code."""

import gzip
import io
import math
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from verifier import zoo
from verifier.errors import InputError, ModelError, RefusedError, UnsupportedOperatorError, VerifierError
from verifier.load import export_onnx, from_module, load
from verifier.load.pickles import LAYERS
from verifier.ops.registry import MODULE


def saved(module_or_state: object, path: Path, **options: object) -> Path:
    torch.save(module_or_state, path, **options)
    return path


def mlp() -> nn.Sequential:
    return zoo.build("mlp_100", (1, 28, 28), 10)


class Intruder:
    """Unpickling this would create a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


class CustomNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def refusal(path: Path, arch: str | None = None) -> str:
    with pytest.raises(VerifierError) as caught:
        load(path, arch)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_plain_pickle_that_would_run_code_is_refused(tmp_path: Path, protocol: int) -> None:
    path, marker = tmp_path / "model.pt", tmp_path / "marker"
    path.write_bytes(pickle.dumps({"weight": Intruder(marker)}, protocol=protocol))
    message = refusal(path)
    assert protocol < 2 or f"'{os.mkdir.__module__}.mkdir'" in message
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "marker"
    state = {"0.weight": torch.zeros(2), "extra": Intruder(marker)}
    path = saved(state, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    message = refusal(path, "mlp_100")
    assert f"refused: this pickle wants to import '{os.mkdir.__module__}.mkdir', which could run code" in message
    assert "torch.onnx.export" in message and not marker.exists()
    with pytest.raises(RefusedError):
        load(path)


def test_custom_classes_are_refused_by_name(tmp_path: Path) -> None:
    message = refusal(saved(CustomNet(), tmp_path / "model.pt"))
    assert f"wants to import '{__name__}.CustomNet'" in message
    inside = refusal(saved(nn.Sequential(CustomNet()), tmp_path / "inside.pt"))
    assert f"wants to import '{__name__}.CustomNet'" in inside


def test_a_pickled_sequence_is_rebuilt_from_its_numbers(tmp_path: Path) -> None:
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(196, 5)),
    )
    layers[1].running_mean.uniform_(-1, 1)
    layers[1].running_var.uniform_(0.5, 2)
    x = torch.rand(3, 1, 28, 28)
    expected = layers.eval()(x).detach().numpy()
    model = load(saved(layers, tmp_path / "model.pt"))
    assert model.kind == "sequential" and model.graph.input_shape == (1, 28, 28)
    np.testing.assert_array_equal(model.native(x.numpy()), expected)
    np.testing.assert_allclose(model.graph(x.double()).numpy(), expected, atol=1e-5)


def test_attributes_smuggled_into_a_layer_do_not_survive(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Linear(3, 2))
    layers[0].bias_of_another = torch.ones(2)
    layers[0].extra_repr = "not a function"  # type: ignore[assignment]
    model = load(saved(layers, tmp_path / "model.pt"))
    assert not hasattr(model.native.module[0], "bias_of_another")  # type: ignore[attr-defined]
    layers[0].in_features = [[1]]  # type: ignore[assignment]
    assert "damaged Linear layer" in refusal(saved(layers, tmp_path / "damaged.pt"))


def test_torchscript_and_export_archives_are_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.trace(CustomNet(), torch.zeros(1, 4)).save(str(tmp_path / "script.pt"))
    torch.export.save(torch.export.export(CustomNet(), (torch.zeros(1, 4),)), str(tmp_path / "model.pt2"))
    for name, reason in (("script.pt", "TorchScript"), ("model.pt2", "torch.export")):
        message = refusal(tmp_path / name)
        assert "refused" in message and reason in message and "torch.onnx.export" in message


def test_missing_files_and_directories(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.onnx", "no such model file"), (tmp_path, "a directory")):
        with pytest.raises(InputError, match=reason):
            load(path)


def good_files(tmp_path: Path) -> dict[str, bytes]:
    from safetensors.torch import save

    state = mlp().state_dict()
    export_onnx(from_module(mlp(), (1, 28, 28)), tmp_path / "good.onnx")
    onnx_bytes = (tmp_path / "good.onnx").read_bytes()
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return {
        "onnx": onnx_bytes,
        "gz": gzip.compress(onnx_bytes),
        "zip": new.getvalue(),
        "legacy": old.getvalue(),
        "safetensors": save(state),
    }


def test_truncated_and_altered_files_are_one_clear_line(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for kind, content in good_files(tmp_path).items():
        path = tmp_path / f"{kind}.bin"
        path.write_bytes(content)
        arch = None if kind in ("onnx", "gz") else "mlp_100"
        assert load(path, arch).graph.output_shape == (10,)
        for share in (0.0, 0.001, 0.01, 0.3, 0.9, 0.9999):
            path.write_bytes(content[: int(share * len(content))])
            refusal(path, arch)
        for _ in range(30):  # damage in the head, where the structure is
            altered = bytearray(content)
            altered[generator.integers(min(600, len(content)))] ^= 1 << int(generator.integers(8))
            path.write_bytes(altered)
            try:
                load(path, arch)
            except VerifierError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_random_bytes(tmp_path: Path) -> None:
    generator, path = np.random.default_rng(1), tmp_path / "noise.onnx"
    for head in (b"", b"\x08\x07", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"\x1f\x8b", struct.pack("<Q", 40) + b"{"):
        for size in (1, 10, 100, 5000):
            path.write_bytes(head + generator.bytes(size))
            refusal(path, "mlp_100")


def test_bare_weights_need_the_right_architecture(tmp_path: Path) -> None:
    path = saved(mlp().state_dict(), tmp_path / "model.pt")
    assert "--arch" in refusal(path)
    assert "tensor '1.weight' has shape (100, 784), not (32, 784)" in refusal(path, "mlp_32")
    assert "tensor '0.weight' of shape (16, 1, 4, 4) is missing" in refusal(path, "conv_small")
    with pytest.raises(InputError, match="unknown architecture 'resnet'"):
        load(path, "resnet")
    state = mlp().state_dict() | {"9.weight": torch.zeros(3)}
    assert "'9.weight' of shape (3,) is not part of it" in refusal(saved(state, path), "mlp_100")


def test_containers_and_prefixes_of_state_dicts(tmp_path: Path) -> None:
    state = mlp().state_dict()
    expected = mlp()
    expected.load_state_dict(state)
    x = torch.rand(2, 1, 28, 28)
    wrapped = {f"module.{name}": value for name, value in state.items()}
    optimizer = torch.optim.Adam(expected.parameters()).state_dict()
    for container in (
        state,
        {"state_dict": state, "epoch": 3},
        {"state_dict": [state]},
        [state],
        wrapped,
        {"model": wrapped, "optimizer": optimizer, "note": "best"},
    ):
        model = load(saved(container, tmp_path / "model.pt"), "mlp_100")
        np.testing.assert_array_equal(model.native(x.numpy()), expected(x).detach().numpy())
    several = saved({"model": state, "ema": state}, tmp_path / "model.pt")
    assert "several state dicts (model, ema)" in refusal(several, "mlp_100")
    assert "no state dict" in refusal(saved({"epoch": 3}, tmp_path / "model.pt"), "mlp_100")


ROOT = Path(os.environ.get("VERIFIER_DATA") or Path(__file__).parents[3] / "shared" / "data").parent
WONG_KOLTER = ROOT / "models" / "wk17a.pth"


@pytest.mark.skipif(not WONG_KOLTER.exists(), reason="no wk17a.pth: set VERIFIER_DATA to a folder beside models/")
def test_a_file_saved_on_a_gpu_by_an_old_torch() -> None:
    model = load(WONG_KOLTER, "conv_small")
    assert model.graph.input_shape == (1, 28, 28) and model.kind == "state_dict" and model.card is None
    raw = torch.load(WONG_KOLTER, map_location="cpu", weights_only=True)
    ours = [t for node in model.graph.nodes for t in node.op.tensors().values()]
    assert all(map(torch.equal, ours, (w.double() for w in raw.values()))) and len(ours) == len(raw) == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    state = mlp().state_dict()
    state["3.weight"][7, 5] = value
    assert "node '3.linear' hold NaN or Inf" in refusal(saved(state, tmp_path / "model.pt"), "mlp_100")


def test_weights_keep_their_exact_value_or_are_refused(tmp_path: Path) -> None:
    half = {name: value.half() for name, value in mlp().state_dict().items()}
    model = load(saved(half, tmp_path / "model.pt"), "mlp_100")
    assert torch.equal(model.graph.nodes[-1].op.tensors()["weight"], half["5.weight"].double())
    double = {name: value.double() / 3 for name, value in half.items()}
    assert "tensor '1.weight' holds torch.float64 numbers" in refusal(saved(double, tmp_path / "model.pt"), "mlp_100")


def matmul_model(operator: str = "MatMul", dims: tuple = (1, 3)) -> tuple:
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in (("x", dims), ("y", None))]
    node = helper.make_node(operator, ["x", "w"], ["y"], name="n7")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), weight


def test_unsupported_operators_are_named_with_their_node(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model, _ = matmul_model("Einsum")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedOperatorError, match=r"unsupported operator 'Einsum' at node 'n7' \(supported: Abs"):
        load(path)
    model, _ = matmul_model()
    model.graph.node[0].domain = "com.example"
    path.write_bytes(model.SerializeToString())
    assert "'com.example.MatMul' at node 'n7'" in refusal(path)


def test_an_unknown_operator_is_named_before_what_prepares_for_it(tmp_path: Path) -> None:
    """An export of nn.LSTM begins with a Transpose of the batch axis, which no network may have."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    sides[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4]))
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "W", "R"], ["y"], "memory", hidden_size=2),
    ]
    stored = [numpy_helper.from_array(np.zeros((1, 8, n), np.float32), name) for name, n in (("W", 4), ("R", 2))]
    (tmp_path / "net.onnx").write_bytes(
        helper.make_model(helper.make_graph(nodes, "g", sides[:1], sides[1:], stored)).SerializeToString()
    )
    with pytest.raises(UnsupportedOperatorError, match="unsupported operator 'LSTM' at node 'memory'"):
        load(tmp_path / "net.onnx")


def test_every_layer_that_can_be_analysed_can_be_unpickled() -> None:
    assert {layer.__name__ for layer in LAYERS} - {"Sequential"} == set(MODULE)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose1d(3, 2, 3, stride=2, padding=1, output_padding=1), (3, 5)),
        (nn.PReLU(init=0.3), (4,)),
        (nn.Hardswish(), (4,)),
        (nn.Hardsigmoid(), (4,)),
        (nn.Softsign(), (4,)),
        (nn.Softplus(beta=2.0), (4,)),
        (nn.ELU(0.5), (4,)),
        (nn.CELU(0.7), (4,)),
        (nn.SELU(), (4,)),
        (nn.GELU(), (4,)),
        (nn.SiLU(), (4,)),
        (nn.Softmax(1), (4,)),
        (nn.LogSoftmax(dim=-1), (4,)),
        (nn.AvgPool1d(3, 2, padding=1, count_include_pad=False), (2, 7)),
        (nn.MaxPool1d(3, 2, padding=1), (2, 7)),
        (nn.AdaptiveAvgPool1d(2), (2, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_pickled_layer_comes_back(tmp_path: Path, layer: nn.Module, shape: tuple[int, ...]) -> None:
    size, x = math.prod(shape), torch.randn(3, math.prod(shape))
    net = nn.Sequential(nn.Linear(size, size), nn.Unflatten(1, shape), layer, nn.Flatten()).eval()
    model = load(saved(net, tmp_path / "net.pt"))
    expected = net(x).detach().numpy()
    np.testing.assert_array_equal(model.native(x.numpy()), expected)
    np.testing.assert_allclose(model.graph(x.double()).numpy(), expected, atol=1e-5)


def test_input_shapes_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for dims, reason in (((2000, 3), "batch size is fixed at 2000"), ((1, None), "unknown size"), ((), "unknown size")):
        path.write_bytes(matmul_model(dims=dims)[0].SerializeToString())
        assert reason in refusal(path)


def external_model(path: Path, location: str, offset: int = 0) -> None:
    model, _ = matmul_model()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", "24")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())


def test_external_data_inside_the_folder_is_read_and_hashed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    values = np.arange(6, dtype=np.float32)
    (folder / "data" / "w.bin").write_bytes(b"head" + values.tobytes())
    external_model(folder / "net.onnx", "data/w.bin", offset=4)
    model = load(folder / "net.onnx")
    x = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    np.testing.assert_array_equal(model.native(x), x @ values.reshape(3, 2))
    np.testing.assert_array_equal(model.graph(torch.from_numpy(x).double()).numpy(), x @ values.reshape(3, 2))
    (folder / "data" / "w.bin").write_bytes(b"head" + (values + 1).tobytes())
    assert load(folder / "net.onnx").sha256 != model.sha256
    (folder / "data" / "w.bin").write_bytes(b"head")
    assert "truncated" in refusal(folder / "net.onnx")


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(24))
    (folder / "link.bin").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    for location in ("../secret.bin", str(secret), "a/../../secret.bin", "link.bin", "linked/secret.bin", ""):
        external_model(folder / "net.onnx", location)
        with pytest.raises(RefusedError, match="refused: external data"):
            load(folder / "net.onnx")
    external_model(folder / "net.onnx", "none.bin")
    with pytest.raises(ModelError, match=r"'none\.bin' cannot be read"):
        load(folder / "net.onnx")
