"""Files for images of other channels, not square ones, and images of any size, in fp32, fp16 and int8."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import paddle
import pytest
from paddle import nn
from PIL import Image

import ppcls_ext
from ppcls_ext import reparameterize
from ppcls_ext.commands import export, predict
from ppcls_ext.commands.outcome import run
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing, channels_text
from ppcls_ext.data.labelled import LabelledImages
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export import formats
from ppcls_ext.export.agreement import compare_runtimes
from ppcls_ext.export.float16 import reduce_to_float16
from ppcls_ext.export.formats import export_file, written_for
from ppcls_ext.export.int8 import quantize
from ppcls_ext.export.pipeline import export_onnx, export_with_rule
from ppcls_ext.models import fasternet, mobileone, repvgg
from ppcls_ext.predict.answers import Choice, softmax
from ppcls_ext.predict.classifier import Classifier, classify
from ppcls_ext.predict.evidence import split_file
from ppcls_ext.predict.inference_yml import other_in_paddlex, read_inference_yml, to_inference_yml
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.pixels import fixed_shape
from ppcls_ext.predict.video import Video, classify_video
from ppcls_ext.report.evidence_maps import EvidenceMaps
from ppcls_ext.report.image_figures import as_rgb
from ppcls_ext.report.measured import evaluate_file
from tests.export.conftest import CLASSES, NARROW
from tests.export.test_formats import needs
from tests.helpers import randomise_norms

pytest.importorskip("paddle2onnx", reason="needs paddle2onnx, which has no wheel for Python 3.13")


def make_net(family: str, channels: int) -> nn.Layer:
    paddle.seed(0)
    if family == "MobileOne":
        with pytest.MonkeyPatch.context() as patch:  # 22 random pairs would magnify any rounding beyond recognition
            patch.setattr(mobileone, "STAGE_PAIRS", (1, 1, 2, 1))
            patch.setattr(mobileone, "SE_PAIRS", (0, 0, 1, 1))
            net = mobileone.MobileOne(mobileone.Variant(NARROW, use_se=True), CLASSES, in_channels=channels)
    elif family == "RepVGG":
        net = repvgg.RepVGG(repvgg.Variant((1, 2, 2, 1), NARROW, use_se=True), CLASSES, in_channels=channels)
    else:
        variant = fasternet.Variant(16, (1, 1, 2, 1), fasternet.GELU, 0.0)
        net = fasternet.FasterNet(variant, CLASSES, in_channels=channels)
    randomise_norms(net, 0)
    net.eval()
    return net


def bands(channels: int, height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def logits_of(net: nn.Layer, inputs: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        return reparameterize(net)(paddle.to_tensor(inputs)).numpy()


@pytest.mark.parametrize(("family", "channels"), [("MobileOne", 1), ("RepVGG", 4), ("FasterNet", 5)])
def test_a_file_for_other_channels_and_a_size_that_is_not_square(family, channels, tmp_path):
    net, path = make_net(family, channels), tmp_path / "net.onnx"
    report = export_with_rule(net, path, size="64x32", samples=[bands(channels)])
    assert report.inputs == [f"image (batch, {channels}, 64, 32)"]
    classifier = Classifier(path, threads=1)
    rule = classifier.metadata.preprocessing
    assert rule == Preprocessing(resize_short=None, resize=(37, 73), crop=(32, 64), channels=channels)
    pictures = [bands(channels, 40 + index, 60, index) for index in range(3)]
    expected = softmax(logits_of(net, np.stack([network_input(one, rule) for one in pictures])))
    assert np.allclose(classifier.scores_of([classifier.input(one) for one in pictures]), expected, atol=1e-5)
    assert [answer["class_ids"][0] for answer in classifier(pictures)] == expected.argmax(1).tolist()
    with pytest.raises(PpclsExtError, match=rf"\(40, 60, 3\): expected uint8 \(H, W, {channels}\)"):
        classifier(bands(3))
    (text,) = (entry.value for entry in onnx.load(path).metadata_props if entry.key == "input_size")
    assert text == f"[{channels}, 64, 32]"


@pytest.mark.parametrize(("family", "channels"), [("MobileOne", 3), ("RepVGG", 4), ("FasterNet", 3)])
def test_a_file_for_any_size(family, channels, tmp_path):
    net, path = make_net(family, channels), tmp_path / "net.onnx"
    report = export_with_rule(net, path, size=64, dynamic_size=True)
    assert report.inputs == [f"image (batch, {channels}, height, width)"]
    assert set(report.size_differences) == {"96x64", "64x128"}
    assert "onnxruntime, from Paddle, at 96x64 px" in str(report)
    assert max(report.size_differences.values()) < 1e-4
    classifier = Classifier(path, threads=1)
    assert classifier.metadata.dynamic_size
    assert classifier.network.image_shape == [channels, 64, 64]
    pictures = [bands(channels, 40, 60), bands(channels, 90, 45), bands(channels, 41, 61)]
    inputs = [classifier.input(one) for one in pictures]
    assert [one.shape[1:] for one in inputs] == [(64, 96), (160, 64), (64, 96)]
    found = classifier.scores_of(inputs)
    for picture, row in zip(pictures, found):
        rule = classifier.metadata.preprocessing.whole(*picture.shape[:2])
        assert np.allclose(row, softmax(logits_of(net, network_input(picture, rule)[None]))[0], atol=1e-5)
    assert [answer["scores"][0] for answer in classifier(pictures)] == pytest.approx(found.max(1).tolist(), abs=1e-5)
    sized = Classifier(path, threads=1, size=(64, 160))
    assert sized.input(pictures[0]).shape == (channels, 64, 160)
    assert len(sized(pictures)) == 3
    for wrong in (0, "64x", (1, 2, 3)):
        with pytest.raises(PpclsExtError, match=r"size is .*: expected px, or HEIGHTxWIDTH"):
            Classifier(path, size=wrong)


def test_commands_take_a_file_for_any_size(tmp_path):
    net, path = make_net("RepVGG", 3), tmp_path / "net.onnx"
    export_with_rule(net, path, size=32, dynamic_size=True, batch=2)
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        Image.fromarray(bands(3, 40, 40 + 30 * index)).save(file)
    classifier = Classifier(path, threads=1)
    results = list(classify(classifier, files, 2, Choice(classifier.metadata)))
    assert [item.result for item in results] == classifier(files)
    verified = compare_runtimes(str(path), [str(file) for file in files])
    assert verified.images == 3
    assert all(item.error is not None or item.agrees for item in verified.comparisons)
    maps = EvidenceMaps(split_file(path), classifier.metadata, tmp_path / "maps")
    (drawn,) = maps.draw(files[2])
    assert drawn.path.is_file()
    with pytest.raises(PpclsExtError, match="ncnn"):
        Classifier(path, runtime="ncnn")


def test_openvino_takes_any_size(tmp_path):
    pytest.importorskip("openvino")
    net, path = make_net("RepVGG", 4), tmp_path / "net.onnx"
    export_with_rule(net, path, size=32, dynamic_size=True)
    pictures = [bands(4), bands(4, 50, 90)]
    ours, theirs = (Classifier(path, 1, runtime)(pictures) for runtime in ("onnxruntime", "openvino"))
    for one, other in zip(ours, theirs):
        assert one["class_ids"] == other["class_ids"]
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)


def test_a_fixed_file_takes_its_own_size_alone(exported):
    assert Classifier(exported[1], size=16).input(bands(3)).shape == (3, 16, 16)
    with pytest.raises(PpclsExtError, match=r"was exported for images of 16 px, and the size is 32x16: leave it out"):
        Classifier(exported[1], size=(32, 16))


def test_metadata_that_contradict_the_network(exported, tmp_path):
    model = onnx.load(exported[1])
    model.metadata_props.add(key="dynamic_size", value="true")
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(PpclsExtError, match="its metadata say any size: export it again"):
        Classifier(tmp_path / "net.onnx")
    model.metadata_props[-1].value = "maybe"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(PpclsExtError, match="dynamic_size is maybe"):
        Classifier(tmp_path / "net.onnx")


@pytest.mark.parametrize(("family", "channels"), [("MobileOne", 1)])
def test_int8_and_fp16_of_other_channels(family, channels, tmp_path):
    net = make_net(family, channels)
    rule = Preprocessing(resize_short=36, crop=(32, 32), channels=channels)
    images = np.stack([network_input(bands(channels, seed=index), rule) for index in range(32)])
    for name, reduce in (
        ("int8", partial(quantize, images=images, allow=True, quiet=True)),
        ("fp16", reduce_to_float16),
    ):
        path = tmp_path / f"{name}.onnx"
        metadata = Metadata("RepVGG_A0", rule).to_properties()
        export_onnx(net, path, image_shape=(channels, 32, 32), opset=20, metadata=metadata, reduce=reduce)
        assert Classifier(path).metadata.quantization == name
        assert len(Classifier(path)(bands(channels))) == 1


def test_wrong_channels_are_one_line(tmp_path):
    net, path = make_net("RepVGG", 4), tmp_path / "net.onnx"
    for preprocessing in (Preprocessing(), {"channels": 3}):
        with pytest.raises(PpclsExtError, match="takes images of 4 channels, and preprocessing makes 3"):
            ppcls_ext.export_onnx(net, path, preprocessing=preprocessing)
    metadata = Metadata("RepVGG_A0", Preprocessing(resize_short=64, crop=(64, 64), channels=4))
    with pytest.raises(PpclsExtError, match=r"image_shape is \(3, 64, 64\), but .* \(4, 64, 64\)"):
        export_onnx(net, path, image_shape=(3, 64, 64), metadata=metadata.to_properties())
    assert not path.exists()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_inference_yml_has_the_channels_and_says_what_paddlex_cannot(channels, tmp_path):
    metadata = Metadata(
        "RepVGG_A0", Preprocessing(resize_short=None, resize=(40, 60), crop=(32, 48), channels=channels)
    )
    (tmp_path / "inference.yml").write_text(to_inference_yml(metadata))
    assert read_inference_yml(tmp_path / "inference.yml").preprocessing == metadata.preprocessing
    said = other_in_paddlex(metadata)
    assert bool(said) == (channels != 3)
    assert all(f"the network takes {channels}: PaddleX cannot run it" in line for line in said)


def test_images_of_any_channels_are_drawn():
    image = bands(5)
    assert np.array_equal(as_rgb(image[..., :1]), image[..., [0, 0, 0]])
    assert np.array_equal(as_rgb(image[..., :2]), image[..., [0, 0, 0]])
    assert np.array_equal(as_rgb(image[..., :4]), image[..., :3])
    assert np.array_equal(as_rgb(image)[..., 1], np.rint(image.mean(axis=2)))


def test_int8_is_of_one_size(tmp_path):
    net, path = make_net("RepVGG", 3), tmp_path / "net.onnx"
    with pytest.raises(PpclsExtError, match=r"--dynamic-size\) exclude each other: int8 is calibrated .* at one size"):
        export_with_rule(net, path, size=32, dynamic_size=True, precision="int8", samples=[bands(3)] * 32)
    export_with_rule(net, path, size=32, dynamic_size=True)
    with pytest.raises(PpclsExtError, match="int8 is calibrated and checked at one size"):
        export_file(path, "onnx", precision="int8", calibration=str(tmp_path))
    half = export_file(path, "onnx", precision="float16").path
    assert Classifier(half).input(bands(3)).shape == (3, 32, 64)


def test_a_file_for_any_size_is_evaluated_on_the_whole_of_each_image(tmp_path):
    net, path = make_net("RepVGG", 1), tmp_path / "net.onnx"
    export_with_rule(net, path, size=32, dynamic_size=True)
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        Image.fromarray(bands(1, 40, 40 + 30 * index)[..., 0]).save(file)
    classifier = Classifier(path, threads=1)
    images = LabelledImages([str(file) for file in files], np.zeros(3, np.int64))
    found = evaluate_file(classifier, images, "net").found
    answers = classifier(files, topk=1)
    assert found.predicted.tolist() == [answer["class_ids"][0] for answer in answers]
    assert found.confidence.tolist() == pytest.approx([answer["scores"][0] for answer in answers], abs=1e-5)
    both = [np.mean(classifier.scores(classifier.views(file, "flip")), axis=0).max() for file in files]
    assert evaluate_file(classifier, images, "net", tta="flip").found.confidence.tolist() == pytest.approx(both)
    with pytest.raises(PpclsExtError, match="a file for any size gets the whole of each image: take flip"):
        evaluate_file(classifier, images, "net", tta="ten-crop")


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(("to", "options"), [("tflite", {"tensor_input": True}), ("ncnn", {})])
def test_phones_take_floats_of_other_channels(to, options, channels, tmp_path):
    needs(to)
    net, path = make_net("MobileOne", channels), tmp_path / "net.onnx"
    export_with_rule(net, path, size="64x32")
    images = [bands(channels, seed=seed) for seed in range(3)]
    mode = {1: "L", 4: "RGBA"}[channels]
    Image.fromarray(images[0].squeeze()).convert(mode).save(tmp_path / "one.png")
    report = export_file(path, to, samples=[str(tmp_path / "one.png")], **options)
    assert f"image of {channels_text(channels)}, resized to 37 × 73 px" in report.input
    file = Classifier(report.path)
    assert file.network.image_shape == [channels, 64, 32]
    inputs = np.stack([file.input(image) for image in images])
    expected = Classifier(path).scores(inputs)
    np.testing.assert_allclose(np.concatenate([file.scores(one[None]) for one in inputs]), expected, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("to", ["tflite", "coreml"])
def test_an_image_input_is_rgb(to, channels, tmp_path, capsys):
    needs(to)
    net, path = make_net("RepVGG", channels), tmp_path / "net.onnx"
    export_with_rule(net, path, size=32)
    assert run(lambda: export.main([str(path), "--to", to])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    name = formats.FORMATS[to].name
    assert line.startswith(f"error: {name} files take RGB images, and the network takes {channels_text(channels)}: ")
    assert "--tensor-input" in line
    assert list(tmp_path.iterdir()) == [path]


def test_a_web_page_takes_rgb():
    with pytest.raises(
        PpclsExtError, match="web pages take RGB images, and the network takes 5 channels: export it to tflite"
    ):
        formats.require_input("web", 5, tensor_input=False)


@pytest.mark.parametrize("to", ["tflite", "coreml", "ncnn"])
def test_formats_of_phones_take_one_size(to, tmp_path, capsys):
    needs(to)
    net, path = make_net("RepVGG", 3), tmp_path / "net.onnx"
    export_with_rule(net, path, size=32, dynamic_size=True)
    assert run(lambda: export.main([str(path), "--to", to])) == 1
    said = f"takes images of any size, and {formats.FORMATS[to].name} files those of one: export it again without"
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
    if to != "coreml":
        with pytest.raises(PpclsExtError, match="takes images of any size"):
            written_for(to, path, tmp_path)


@pytest.mark.parametrize(
    ("metadata", "takes_pixels", "said"),
    [
        (Metadata("RepVGG_A0", Preprocessing(channels=4)), True, "takes RGB pixels, but its metadata say 4 channels"),
        (Metadata("RepVGG_A0", Preprocessing(), dynamic_size=True), False, "of one size, but its metadata say any"),
    ],
)
def test_files_of_phones_whose_metadata_contradict_them(metadata, takes_pixels, said):
    assert fixed_shape("net.tflite", Metadata("RepVGG_A0", Preprocessing(channels=4))) == [4, 224, 224]
    with pytest.raises(PpclsExtError, match=f"net.tflite: .*{said}"):
        fixed_shape("net.tflite", metadata, takes_pixels)


def test_frames_of_a_video_become_what_images_of_their_colours_are(tmp_path, capsys):
    cv2 = pytest.importorskip("cv2")
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for index in range(10):
        writer.write(np.ascontiguousarray(bands(3, 48, 64, index) // 16 * 16))
    writer.release()
    for channels in (1, 4, 5):
        export_with_rule(make_net("RepVGG", channels), tmp_path / f"{channels}.onnx", size=32)
    for channels, mode in ((1, "L"), (4, "RGBA")):
        classifier = Classifier(tmp_path / f"{channels}.onnx", threads=1)
        (second,) = classify_video(classifier, Video(clip, every=5), Choice(classifier.metadata))
        images = [Image.fromarray(frame.image).convert(mode) for frame in Video(clip, every=5)]
        expected = [answer["class_ids"] for answer in classifier(images)]
        assert [frame["class_ids"] for frame in second.frames] == expected
    assert run(lambda: predict.main([str(tmp_path / "5.onnx"), "--video", str(clip)])) == 1
    said = "error: a video's frames are RGB, and the network takes 5 channels: expected 1 to 4"
    assert said in capsys.readouterr().err.splitlines()
