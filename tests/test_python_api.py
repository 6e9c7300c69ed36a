"""The public functions as a Python program uses them: export, classify, unfuse, without a configuration."""

from __future__ import annotations

import doctest
import io
import json

import numpy as np
import onnx
import paddle
import pytest
from PIL import Image

import ppcls_ext
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from tests.helpers import needs_converter
from tests.tiny_net import CLASSES as NAMES
from tests.tiny_net import make_net

SIZE, CLASSES = 32, len(NAMES)  # SIZE in px


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three pictures of different sizes, as files."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index, shape in enumerate([(40, 50, 3), (32, 32, 3), (90, 64, 3)]):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, its file, and what `export_onnx` returned."""
    pytest.importorskip("paddle2onnx", reason="needs paddle2onnx, which has no wheel for Python 3.13")
    net, path = make_net(), tmp_path_factory.mktemp("export") / "net.onnx"
    names = [f"name {index}" for index in range(CLASSES)]
    return net, path, ppcls_ext.export_onnx(net, path, size=SIZE, class_names=names)


def properties(path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_export_keeps_what_was_given(exported):
    _, path, report = exported
    assert report.path == path
    assert str(report).startswith(f"{path}: ")
    kept = properties(path)
    rule = json.loads(kept["preprocessing"])
    assert (rule["resize_short"], rule["crop"], rule["mean"]) == (37, [SIZE, SIZE], [0.485, 0.456, 0.406])
    assert json.loads(kept["class_names"])[1] == "name 1"


@needs_converter
def test_export_needs_no_more_than_model_and_path(tmp_path):
    ppcls_ext.export_onnx(ppcls_ext.build("FasterNet_T0", class_num=3), tmp_path / "model.onnx")
    kept = properties(tmp_path / "model.onnx")
    assert kept["architecture"] == "FasterNet_T0"
    assert json.loads(kept["input_size"]) == [3, 224, 224]
    assert "class_names" not in kept


@needs_converter
def test_preprocessing_of_ones_own(tmp_path, pictures):
    net, path = make_net(), tmp_path / "net.onnx"
    own = {"mean": [0.5, 0.5, 0.5], "resize_short": 40, "backend": "pil", "interpolation": "bicubic"}
    ppcls_ext.export_onnx(net, path, size=SIZE, preprocessing=own, samples=pictures, softmax=False, batch=2)
    rule = json.loads(properties(path)["preprocessing"])
    assert {name: rule[name] for name in own} == own
    whole = Preprocessing(resize_short=None, resize=(SIZE, SIZE), crop=None)
    ppcls_ext.export_onnx(net, path, preprocessing=whole)
    assert json.loads(properties(path)["preprocessing"])["resize"] == [SIZE, SIZE]


@needs_converter
def test_precision(tmp_path, pictures):
    net = make_net()
    report = ppcls_ext.export_onnx(net, tmp_path / "half.onnx", size=SIZE, precision="float16", samples=pictures)
    assert json.loads(properties(report.path)["quantization"])["type"] == "fp16"
    with pytest.raises(PpclsExtError, match="int8 got 3 calibration images: expected 32 to 500"):
        ppcls_ext.export_onnx(net, tmp_path / "int8.onnx", size=SIZE, precision="int8", samples=pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["half.onnx"]


@pytest.mark.parametrize("name", ["build", "load_weights", "reparameterize", "unfuse"])
def test_the_example_of_its_help(name):
    paddle.seed(1)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    (example,) = doctest.DocTestFinder(recurse=False).find(
        getattr(ppcls_ext, name), name, globs={"ppcls_ext": ppcls_ext, "paddle": paddle}
    )
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=flags).run(example, out=said.append)
    assert result.attempted >= 2
    assert not result.failed, "".join(said)[:2000]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "half"}, "precision is 'half': expected float32, float16, int8"),
        ({"size": 0}, "size is 0: expected a whole number of px"),
        ({"size": "64px"}, "size is '64px'"),
        ({"preprocessing": {"average": 1}}, "preprocessing has no average: expected decode, channel_order"),
        (
            {"size": 64, "preprocessing": Preprocessing()},
            "size is 64 px, and preprocessing makes images of",
        ),
        ({"class_names": "cat"}, "class_names is 'cat': expected a list of names"),
        ({"class_names": {0: "cat", 2: "dog"}}, "class_names has the keys 0, 2, .*expected the whole numbers from 0"),
        ({"class_names": {"0": "cat"}}, "class_names has the keys '0', "),
        pytest.param(
            {"size": SIZE, "class_names": ["a"] * (CLASSES - 1)},
            f"{CLASSES - 1} class names, and there are {CLASSES} classes",
            marks=needs_converter,
        ),
        pytest.param(
            {"size": SIZE, "class_names": ["a"] * (CLASSES + 1)},
            f"{CLASSES + 1} class names, and there are {CLASSES} classes",
            marks=needs_converter,
        ),
        ({"size": SIZE, "samples": ["none.png"]}, "none.png: No such file"),
    ],
)
def test_bad_arguments_leave_nothing(tmp_path, options, message):
    with pytest.raises(PpclsExtError, match=message):
        ppcls_ext.export_onnx(make_net(), tmp_path / "net.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_classifier_takes_every_kind_of_image(exported, pictures):
    net, path, _ = exported
    classifier = ppcls_ext.Classifier(path)
    by_path = classifier(pictures, topk=3)
    assert [len(result["class_ids"]) for result in by_path] == [3, 3, 3]
    assert by_path[0]["label_names"][0] == f"name {by_path[0]['class_ids'][0]}"
    assert classifier([str(file) for file in pictures], topk=3) == by_path
    assert classifier([Image.open(file) for file in pictures], topk=3) == by_path
    assert classifier([np.asarray(Image.open(file)) for file in pictures], topk=3) == by_path
    assert classifier(pictures[1], topk=3) == by_path[1:2], "one picture alone"
    assert classifier([]) == classifier(iter(())) == []
    data = [file.read_bytes() for file in pictures]
    assert classifier(data, topk=3) == classifier(map(bytearray, data), topk=3) == by_path
    assert classifier(iter(pictures), topk=3) == classifier(list(map(io.BytesIO, data)), topk=3) == by_path
    with open(pictures[1], "rb") as file:
        assert classifier(file, topk=3) == by_path[1:2]
    assert classifier(data[1], topk=3) == classifier(io.BytesIO(data[1]), topk=3) == by_path[1:2]
    alike = np.stack([np.asarray(Image.open(pictures[1]))] * 2)
    assert classifier(alike, topk=3) == by_path[1:2] * 2
    assert len(classifier(pictures[0])[0]["class_ids"]) == min(5, CLASSES)

    net.eval()
    x = network_input(pictures[1], classifier.metadata.preprocessing)
    expected = paddle.nn.functional.softmax(net(paddle.to_tensor(x[None]))).numpy()[0]
    assert by_path[1]["class_ids"] == [int(index) for index in expected.argsort()[::-1][:3]]
    np.testing.assert_allclose(by_path[1]["scores"], sorted(expected)[::-1][:3], atol=2e-5)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((8, 8, 3), "float32"), r"got an array float32 \(8, 8, 3\): expected uint8 \(H, W, 3\), RGB"),
        (np.zeros((3, 8, 8), "uint8"), "got an array uint8"),
        (np.zeros((8, 8), "uint8"), "got an array uint8"),
        ([3], "got a int: expected a path"),
        (None, "got a NoneType: expected a path"),
        (3.5, "got a float: expected a path"),
        ([None], "got a NoneType: expected a path"),
        (io.StringIO("text"), "open for reading text: open it with 'rb'"),
        (b"no image", "not an image of a known format"),
        ([io.BytesIO(b"")], "not an image of a known format"),
        ("nowhere.jpg", "nowhere.jpg: No such file"),
    ],
)
def test_no_images(exported, picture, message):
    with pytest.raises(PpclsExtError, match=message):
        ppcls_ext.Classifier(exported[1])(picture)


def test_one_mean_counts_for_all_channels():
    assert Preprocessing(mean=0.5, std=2).mean == (0.5, 0.5, 0.5)
    assert Preprocessing(mean=0.5, std=2).std == (2, 2, 2)
    with pytest.raises(PpclsExtError, match="mean is None: expected 3 numbers, or one for all channels"):
        Preprocessing(mean=None)


def test_names_that_do_not_fit_the_network(exported, tmp_path, pictures):
    model = onnx.load(exported[1])
    for entry in model.metadata_props:
        if entry.key == "class_names":
            entry.value = json.dumps(["one"])
    onnx.save(model, tmp_path / "named.onnx")
    with pytest.raises(PpclsExtError, match=f"has 1 class names, and there are {CLASSES} classes"):
        ppcls_ext.Classifier(tmp_path / "named.onnx")(pictures[0])


def test_pillow_images_are_turned_as_files_are(exported, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    image.save(tmp_path / "turned.png", exif=exif)
    classifier = ppcls_ext.Classifier(exported[1])
    assert classifier(Image.open(tmp_path / "turned.png")) == classifier(tmp_path / "turned.png")
    assert classifier(np.asarray(image)) != classifier(tmp_path / "turned.png")


@pytest.mark.parametrize("kind", ["arrays", "one tensor", "a loader's lists"])
def test_unfuse(kind):
    paddle.seed(0)
    fused = ppcls_ext.reparameterize(ppcls_ext.build("FasterNet_T0", class_num=3))
    x = paddle.randn([8, 3, 32, 32])
    batches = {"arrays": [x.numpy()], "one tensor": x, "a loader's lists": [[x, paddle.zeros([8])]]}[kind]
    unfused = ppcls_ext.unfuse(fused, batches)
    assert unfused.training
    assert len(unfused.state_dict()) > len(fused.state_dict())
    expected = fused(x).numpy()
    unfused.eval()
    np.testing.assert_allclose(unfused(x).numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_unfuse_refuses_what_is_no_batch():
    fused = ppcls_ext.build("FasterNet_T0", fused=True)
    with pytest.raises(PpclsExtError, match=r"a calibration batch is \[3, 32, 32\]: expected \(N, 3, H, W\)"):
        ppcls_ext.unfuse(fused, list(paddle.randn([2, 3, 32, 32])))


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'Classifer'"):
        _ = ppcls_ext.Classifer
    assert set(ppcls_ext.__all__) <= {*dir(ppcls_ext), "Classifier", "Run"}
