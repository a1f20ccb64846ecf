"""torch modules: layer by layer, through torch.export, and round trips of every architecture of the zoo."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from verifier import zoo
from verifier.errors import ModelError, UnsupportedOperatorError
from verifier.graph import Graph, GraphBuilder
from verifier.load import export_onnx, from_module, load, load_module
from verifier.ops import affine, convolution, exponential, gates, powers, product, relu, shape, smooth, waves
from verifier.ops.registry import ATEN, MODULE, OPS


def seeded(module: nn.Module) -> nn.Module:
    """The module with random parameters and statistics."""
    torch.manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5) if "var" in name else tensor.data.normal_()
    return module.eval()


def assert_agrees(graph: Graph, function: Callable[[Tensor], Tensor], input_shape: tuple[int, ...]) -> None:
    x = torch.empty(4, *input_shape, dtype=torch.float64, requires_grad=False).uniform_(-1.5, 1.5)
    expected = function(x)
    assert graph.output_shape == tuple(expected.shape[1:])
    torch.testing.assert_close(graph(x), expected, rtol=1e-12, atol=1e-12)


MAP = (2, 6, 7)
LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(4, 3), (4,)),
    (nn.Linear(4, 3, bias=False), (2, 4)),
    (nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2), (2, 9)),
    (nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), MAP),
    (nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2)), MAP),
    (nn.Conv2d(2, 3, 3, padding="valid"), MAP),
    (nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1, output_padding=1), (2, 5)),
    (nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2), MAP),
    (nn.BatchNorm1d(4), (4,)),
    (nn.BatchNorm2d(2, affine=False), MAP),
    (nn.ReLU(), MAP),
    (nn.LeakyReLU(0.2), MAP),
    (nn.PReLU(), MAP),
    (nn.Sigmoid(), MAP),
    (nn.Tanh(), MAP),
    (nn.Softsign(), MAP),
    (nn.Hardsigmoid(), MAP),
    (nn.Hardswish(), MAP),
    (nn.SiLU(), MAP),
    (nn.GELU(), MAP),
    (nn.Softplus(2.0), MAP),
    (nn.ELU(0.5), MAP),
    (nn.CELU(0.5), MAP),
    (nn.SELU(), MAP),
    (nn.Softmax(1), MAP),
    (nn.LogSoftmax(-1), MAP),
    (nn.Hardtanh(-0.5, 0.25), MAP),
    (nn.ReLU6(), MAP),
    (nn.Sequential(nn.Flatten(), nn.Linear(84, 2)), MAP),
    (nn.Sequential(nn.Flatten(2), nn.Linear(42, 2)), MAP),
    (nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 2)), (6,)),
    (nn.Sequential(nn.Dropout(), nn.Identity(), nn.Dropout1d(), nn.Dropout2d(), nn.AlphaDropout(), nn.ReLU()), (2, 3)),
    (nn.AvgPool1d(3, 2, 1), (2, 7)),
    (nn.AvgPool2d((2, 3), padding=(0, 1), ceil_mode=True), MAP),
    (nn.AvgPool2d(2, 1, padding=1, count_include_pad=False), MAP),
    (nn.MaxPool1d(2), (2, 7)),
    (nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), MAP),
    (nn.MaxPool2d(2, dilation=2), MAP),
    (nn.AdaptiveAvgPool1d(1), (2, 7)),
    (nn.AdaptiveAvgPool2d((3, 1)), MAP),
    (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1))), MAP),
]


@pytest.mark.parametrize(("layer", "input_shape"), LAYERS, ids=[type(layer).__name__ for layer, _ in LAYERS])
def test_layers_agree_with_torch(layer: nn.Module, input_shape: tuple[int, ...]) -> None:
    layer = seeded(layer).double()
    assert_agrees(from_module(layer, input_shape), layer, input_shape)


def test_the_layers_cover_the_registry() -> None:
    names = {type(module).__name__ for layer, _ in LAYERS for module in layer.modules()}
    assert names >= set(MODULE)


class Wrapped(nn.Module):
    """A function as a module; torch.export reads it."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.matrix = nn.Parameter(torch.randn(4, 3))
        self.register_buffer("vector", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.matrix, self.vector)


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "products": (lambda x, m, v: torch.addmm(v[:3], x, m, beta=2, alpha=0.5) + torch.mm(x, m) + x @ m, (4,)),
    "sums": (lambda x, m, v: torch.add(x, v, alpha=2) - 1 + (3 - x) + torch.sub(x, F.relu(x), alpha=3), (4,)),
    "in place": (lambda x, m, v: (x + v).add_(1).sub_(v).mul_(2).div_(3).relu_(), (4,)),
    "scaling": (lambda x, m, v: -x * v / 3 + 2 * x / v, (4,)),
    "reshaping": (
        lambda x, m, v: (x.flatten(1).view(x.size(0), -1, 2).reshape(-1, 3, 4).unsqueeze(2).squeeze(2)) * v,
        (2, 6),
    ),
    "permuting": (lambda x, m, v: x.permute(0, 2, 1).transpose(1, 2).contiguous().clone().transpose(-1, 1) * 2, (4, 3)),
    "joining": (
        lambda x, m, v: torch.cat([x[:, 1:3], x[:, ::2], torch.zeros(1, 1, 3).expand(x.shape[0], 1, 3)], 1) * 2,
        (4, 3),
    ),
    "splitting": (lambda x, m, v: x.split(3, 1)[1] + x.split([2, 3], 1)[0][:, :2] - x.chunk(3, 1)[0], (5,)),
    "selecting": (lambda x, m, v: x[:, -1] + x.index_select(1, torch.tensor([2, 0]))[:, 0].expand(-1, 3), (4, 3)),
    "padding": (lambda x, m, v: F.pad(F.pad(x, (1, 2), value=0.5), (-1, 1, 2, 0)), (4, 3)),
    "reducing": (
        lambda x, m, v: x.sum(1) + x.mean((1, 2), keepdim=True).squeeze(2) + x.mean(-1).sum(-1, keepdim=True),
        (3, 3),
    ),
    "pooling": (lambda x, m, v: F.avg_pool2d(F.max_pool2d(x, 2), 2, 1, 1) + F.adaptive_avg_pool2d(x, 1), (2, 4, 4)),
    "clipping": (
        lambda x, m, v: x.clamp(-1, 0.5) + x.clamp(min=0.25) + x.clamp(max=0.1) + F.hardtanh(x) + F.relu6(x),
        (4,),
    ),
    "curving": (lambda x, m, v: x.abs() + x.sigmoid() * 2 + x.tanh() + F.leaky_relu(x, 0.1) + F.prelu(x, v[:1]), (4,)),
    "elementary": (
        lambda x, m, v: x.exp().log() + (x.square() + 1).sqrt() + 1 / (x**2 + 1) + x**3 + x.sin() * 2 + x.cos(),
        (4,),
    ),
    "bending": (
        lambda x, m, v: F.softplus(x) + F.elu(x) + F.selu(x) + F.celu(x, 0.5) + F.gelu(x) + F.silu(x) + x.erf(),
        (4,),
    ),
    "easing": (lambda x, m, v: F.hardswish(x) + F.hardsigmoid(x) + x.atan() + F.softsign(x) + x.softmax(1), (4,)),
    "gates": (lambda x, m, v: x * torch.sigmoid(x) + 0.5 * x * (1 + torch.erf(x / 2**0.5)) + x.log_softmax(-1), (4,)),
    "multiplying": (lambda x, m, v: x * x[:, :1] / (x.exp() + v) - (x.unsqueeze(2) @ x.unsqueeze(1)).sum(2), (4,)),
    "resizing": (
        lambda x, m, v: (
            F.interpolate(x, scale_factor=2)
            + F.interpolate(x, size=(8, 6), mode="bilinear")
            + F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        ),
        (2, 4, 3),
    ),
    "shuffling": (lambda x, m, v: F.pixel_unshuffle(F.pixel_shuffle(x, 2) * 2, 2) + x.amax(1, keepdim=True), (4, 2, 3)),
    "repeating": (lambda x, m, v: x.repeat(1, 2) + x.amin((1,), keepdim=True), (4,)),
    "extremes": (lambda x, m, v: torch.maximum(x, v) + torch.minimum(x, -x), (4,)),
    "casting": (lambda x, m, v: F.dropout(x, 0.5, False).to(torch.float64).detach() * 2, (4,)),
    "folding": (lambda x, m, v: x * (torch.exp(v) + torch.arange(4)), (4,)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exported_programs_agree_with_torch(name: str) -> None:
    torch.manual_seed(0)
    function, input_shape = FUNCTIONS[name]
    module = Wrapped(function).double()
    if name in ("joining", "reshaping"):  # these name the batch size that torch.export saw
        x = torch.rand(1, *input_shape, dtype=torch.float64)
        torch.testing.assert_close(from_module(module, input_shape)(x), module(x))
    else:
        assert_agrees(from_module(module, input_shape), module, input_shape)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.skip, self.out = nn.BatchNorm2d(4), nn.Conv2d(2, 4, 1), nn.Linear(4, 3)
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.second(F.relu(self.first(x)))) + self.skip(x)
        return self.out(self.drop(F.relu(y).mean((2, 3))))


def test_a_residual_network_in_training_mode_is_read_as_in_evaluation() -> None:
    module = seeded(Residual()).double().train()
    graph = from_module(module, MAP)
    assert module.training and all(child.training for child in module.children())
    assert_agrees(graph, module.eval(), MAP)
    names = [type(node.op).__name__ for node in graph.nodes]
    assert "Rescale" not in names, "BatchNorm was not folded into the convolution"


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.add_(1)  # changes y although nobody reads the result
        z = y.view(-1, 2, 2)
        z.relu_()
        return y


def test_in_place_operators_change_what_they_change() -> None:
    assert_agrees(from_module(InPlace(), (4,)), InPlace(), (4,))


def test_modules_that_cannot_be_read_are_refused_by_name() -> None:
    class Summed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(1)

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedOperatorError, match=r"unsupported operator 'cumsum' at node 'cumsum'"):
        from_module(Summed(), (4,))
    with pytest.raises(ModelError, match=r"torch\.export cannot read Branching"):
        from_module(Branching(), (4,))
    with pytest.raises(UnsupportedOperatorError, match="unsupported operator 'mish' at node 'mish'"):
        from_module(nn.Sequential(nn.Linear(4, 4), nn.Mish()), (4,))


def test_a_layer_with_a_hook_is_not_read_by_its_name_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 3))
    module[0].register_forward_hook(lambda layer, inputs, output: output + 1)
    assert_agrees(from_module(module.double(), (4,)), module, (4,))


# Round trips -------------------------------------------------------------------------------------------------------

INPUTS = {"mlp_32": (1, 8, 8), "conv_tiny": (1, 8, 8), "dm_medium": (3, 32, 32), "cnn7": (3, 32, 32)}


def weights(graph: Graph) -> list[Tensor]:
    return [tensor for node in graph.nodes for tensor in node.op.tensors().values()]


@pytest.mark.parametrize("arch", zoo.architectures())
def test_every_architecture_round_trips(tmp_path: Path, arch: str) -> None:
    torch.manual_seed(0)
    input_shape = INPUTS.get(arch, (1, 28, 28))
    module = zoo.build(arch, input_shape, 10).eval()
    torch.save(module.state_dict(), tmp_path / "model.pt")
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    first = load(tmp_path / "model.pt", arch)
    assert first.kind == "state_dict" and first.graph.input_shape == input_shape
    second = load(tmp_path / "model.safetensors", arch)
    folded = any(isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) for layer in module)
    if folded:
        with pytest.raises(ModelError, match="float32"):
            export_onnx(first.graph, tmp_path / "model.onnx")
    export_onnx(first.graph, tmp_path / "model.onnx", rounded=folded)
    third = load(tmp_path / "model.onnx")
    x = torch.rand(2, *input_shape)
    expected = module(x).detach().numpy()
    for model in (first, second, third):
        np.testing.assert_allclose(model.native(x.numpy()), expected, rtol=0, atol=2e-6)
        np.testing.assert_allclose(model.graph(x.double()).numpy(), expected, rtol=0, atol=2e-6)
    assert all(map(torch.equal, weights(first.graph), weights(second.graph)))
    if not folded:
        stored = [p.detach().double() for p in module.parameters()]
        for model in (first, third):
            assert all(map(torch.equal, weights(model.graph), stored)) and len(weights(model.graph)) == len(stored)


def every_op() -> Graph:
    torch.manual_seed(0)
    b = GraphBuilder((2, 4, 5))
    x = b.add(convolution.Conv2d(torch.randn(4, 1, 3, 2), torch.randn(4), (1, 2), (1, 1), (1, 1), 2), 0)
    x = b.add(relu.LeakyReLU(0.25), x)
    x = b.add(convolution.ConvTranspose2d(torch.randn(4, 2, 3, 3), None, (2, 1), (1, 0), (1, 0), (1, 1), 1), x)
    x = b.add(relu.Abs(), b.add(affine.Rescale(torch.randn(2, 1, 1), torch.randn(1, 1, 1)), b.add(smooth.Tanh(), x)))
    x = b.add(shape.Pad((1, 0, 0, 2), 0.5), x)
    x = b.add(convolution.AvgPool2d((2, 2), (2, 2), (1, 0), True, False), x)
    y = b.add(relu.Clip(-0.5, 0.75), x)
    x = b.add(affine.Add((1, -1, 1)), b.add(affine.Add((-1, 1)), x, y), y, b.add(smooth.Sigmoid(), y))
    x = b.add(shape.Reindex(torch.randint(0, 10, (4, 5))), b.add(relu.ReLU(), x))
    x = b.add(affine.Linear(torch.randn(3, 5), torch.randn(3)), x)
    x = b.add(shape.Concat(1), x, b.add(affine.Reduce((1,), True, 0.25), x))
    x = b.add(exponential.Elu(0.5), b.add(waves.Sin(), b.add(waves.Sin(cosine=True), x)))
    for op in (smooth.Atan, smooth.Erf, gates.Gelu, gates.Silu, gates.HardSwish):
        x = b.add(op(), x)
    both = b.add(product.SumDifference(torch.full((4, 4), 0.5)), x, b.add(smooth.Softsign(), x))
    x = b.add(powers.Power(3), b.add(product.QuarterDifference(), b.add(powers.Square(), both)))
    for op in (exponential.Softplus, powers.Sqrt, powers.Reciprocal, exponential.Log, exponential.Exp):
        x = b.add(op(), x)
    x = b.add(shape.Reshape((16,)), b.add(relu.ReLU(), x))
    b.add(affine.Linear(torch.randn(2, 16), None), x)
    return b.finish()


def test_every_op_is_exported(tmp_path: Path) -> None:
    graph = every_op()
    assert {type(node.op) for node in graph.nodes[1:]} == set(OPS)
    export_onnx(graph, tmp_path / "net.onnx")
    onnx.checker.check_model(str(tmp_path / "net.onnx"), full_check=True)
    model = load(tmp_path / "net.onnx")
    x = torch.randn(5, 2, 4, 5)
    torch.testing.assert_close(model.graph(x.double()), graph(x.double()), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.native(x.numpy()), graph(x.double()).numpy(), rtol=1e-4, atol=1e-5)


def test_exported_weights_are_the_float32_weights(tmp_path: Path) -> None:
    module = zoo.build("conv_tiny", (1, 8, 8), 10)
    export_onnx(from_module(module, (1, 8, 8)), tmp_path / "net.onnx")
    stored = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "net.onnx").graph.initializer if t.data_type == 1]
    assert [t.dtype for t in stored] == [np.float32] * 8
    assert all(map(np.array_equal, stored, [p.detach().numpy() for p in module.parameters()]))


# Model cards -------------------------------------------------------------------------------------------------------


def with_card(folder: Path, **changes: object) -> tuple[Path, nn.Sequential]:
    torch.manual_seed(0)
    module, path = zoo.build("mlp_32", (2, 3, 3), 4).eval(), folder / "model.pt"
    torch.save(module.state_dict(), path)
    card = {
        "name": "m",
        "arch": "mlp_32",
        "dataset": "digits",
        "input_shape": [2, 3, 3],
        "classes": 4,
        "mean": [0.5, 0.25],
        "std": [0.3, 2.0],
        "lower": 0.0,
        "upper": 1.0,
        "recipe": {
            "method": "standard",
            "eps": 0.0,
            "epochs": 1,
            "lr": 0.1,
            "batch_size": 8,
            "seed": 0,
            "command": "c",
        },
        "clean_accuracy": 0.5,
        "pgd": [],
        "producer": "p",
        "sha256": load_sha256(path),
    }
    (folder / "model.json").write_text(json.dumps(card | changes))
    return path, module


def load_sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_card_tells_architecture_shape_and_normalisation(tmp_path: Path) -> None:
    path, module = with_card(tmp_path)
    model = load(path)
    assert model.card is not None and model.card.name == "m" and model.sha256 == model.card.sha256
    x = torch.rand(5, 2, 3, 3)
    mean, std = torch.tensor([0.5, 0.25]).view(2, 1, 1), torch.tensor([0.3, 2.0]).view(2, 1, 1)
    expected = module((x - mean) / std).detach().numpy()
    np.testing.assert_array_equal(model.native(x.numpy()), expected)
    np.testing.assert_allclose(model.graph(x.double()).numpy(), expected, atol=1e-6)


def test_a_card_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    path, _ = with_card(tmp_path, sha256="0" * 64)
    with pytest.raises(ModelError, match=r"the card model\.json describes another file"):
        load(path, "mlp_32")
    path, _ = with_card(tmp_path, input_shape=[2, 3, 4])
    with pytest.raises(ModelError, match=r"'1.weight' has shape \(32, 18\), not \(32, 24\)"):
        load(path)


def test_a_card_normalises_the_inputs_of_any_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval(), torch.rand(4, 3, 2, 2)
    export_onnx(from_module(net, (3, 2, 2)), tmp_path / "net.onnx")
    torch.save(net, tmp_path / "net.pt")
    mean, std = (0.1, 0.2, 0.3), (0.5, 2.0, 1.0)
    expected = net((x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)).detach().numpy()
    for path in (tmp_path / "net.onnx", tmp_path / "net.pt"):
        card = {"sha256": load_sha256(path), "input_shape": [3, 2, 2], "classes": 3, "mean": mean, "std": std}
        zoo.card_path(path).write_text(json.dumps(card))
        model = load(path)
        np.testing.assert_allclose(model.native(x.numpy()), expected, atol=1e-6)
        np.testing.assert_allclose(model.graph(x.double()).numpy(), expected, atol=1e-6)
        path.write_bytes(path.read_bytes() + b"\x00" * (path.suffix == ".pt") + b"\x32\x00" * (path.suffix == ".onnx"))
        with pytest.raises(ModelError, match=r"net\.json describes another file"):
            load(path)
    # The last card is about net.pt as it was. Of net.pt as it is, it is none of the business of net.onnx.
    card["sha256"] = load_sha256(tmp_path / "net.pt")
    (tmp_path / "net.json").write_text(json.dumps(card))
    assert load(tmp_path / "net.pt").card is not None and load(tmp_path / "net.onnx").card is None
    zoo.card_path(path).write_text('{"trainer": "of another tool"}')
    assert load(tmp_path / "net.onnx").card is None


def test_a_module_is_a_model(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.drop, self.last = nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.drop(self.first(x.reshape(1, 4)).relu()))

    torch.manual_seed(0)
    net, x = Net(), torch.rand(5, 1, 2, 2)
    model = load_module(net, (1, 2, 2))
    assert net.training and model.kind == "module" and str(model.path) == "Net"
    expected = np.concatenate([net.eval()(row[None]).detach().numpy() for row in x])  # one by one, as it wants them
    np.testing.assert_array_equal(model.native(x.numpy()), expected)
    np.testing.assert_allclose(model.graph(x.double()).numpy(), expected, atol=1e-6)
    (tmp_path / "net.onnx").write_bytes(model.onnx())
    np.testing.assert_allclose(load(tmp_path / "net.onnx").native(x.numpy()), expected, atol=1e-6)
    np.testing.assert_array_equal(load_module(net.double(), (1, 2, 2)).native(x.numpy()), expected)
    net.last.weight.data += 1e-12
    with pytest.raises(
        ModelError, match=r"Net: tensor 'last\.weight' holds torch\.float64 numbers that float32 cannot"
    ):
        load_module(net, (1, 2, 2))


def test_loading_imports_no_heavy_package(tmp_path: Path) -> None:
    path, _ = with_card(tmp_path)
    script = f"""
import sys, time
import torch
from verifier.load import load
start = time.perf_counter()
load({str(path)!r})
assert time.perf_counter() - start < 0.1, "loading a small model takes 0.1 s"
heavy = {{"onnx", "onnxruntime", "safetensors", "google.protobuf", "sympy"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_aten_names_are_names_that_torch_knows() -> None:
    for name in ATEN:
        packet, _, overload = name.partition(".")
        assert hasattr(getattr(torch.ops.aten, packet), overload or "default"), name
