"""The page's own resizing and normalisation, run by Node, against the ones of prediction: the same bytes."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ppcls_ext.export.web_page as web_page
from ppcls_ext.data.image_input import network_input, resize_and_crop
from ppcls_ext.data.image_rule import Preprocessing

IMAGE_JS = Path(web_page.__file__).parent / "web" / "image.js"
SCRIPT = """
import {readFileSync} from 'node:fs';
const {resizeAndCrop, normalize, scoresOf, chosen, roundToEven} = await import(process.argv[1]);
const given = JSON.parse(readFileSync(0, 'utf8'));
const answers = given.images.map(({width, height, data, rule}) => {
  const cropped = resizeAndCrop({width, height, data: Uint8ClampedArray.from(data)}, rule);
  return {pixels: Array.from(cropped.data), input: Array.from(normalize(cropped, rule)), width: cropped.width};
});
const several = {several: true, thresholds: null};
console.log(JSON.stringify({
  answers,
  even: [0.5, 1.5, 2.5, 2.49, 2.51].map(roundToEven),
  probabilities: scoresOf([1, 2, 1000], false),
  sigmoids: scoresOf([0, 800, -800], true),
  best: chosen([0.1, 0.5, 0.5], {several: false}, 2),
  shown: chosen([0.6, 0.5, 0.4], several, 5),
  above: chosen([0.6, 0.5, 0.4], {several: true, thresholds: [0.7, 0.5, 0.1]}, 5),
}));
"""

SIZES = [(61, 40), (224, 300), (333, 97), (8, 8), (500, 375), (1, 1), (3, 200)]
RULES = [
    Preprocessing(resize_short=36, crop=(32, 32)),
    Preprocessing(resize_short=256, crop=(224, 224), channel_order="BGR"),
    Preprocessing(resize_short=None, resize=(48, 31), crop=None, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)),
    Preprocessing(resize_short=33, crop=(32, 30), scale=1.0),
    *(
        Preprocessing(backend="pil", interpolation=name, resize_short=40, crop=(32, 32))
        for name in web_page.INTERPOLATIONS["pil"]
    ),
]


@pytest.fixture(scope="module")
def answered():
    if shutil.which("node") is None:
        pytest.skip("no node on this machine")
    random = np.random.default_rng(0)
    cases = [(random.integers(0, 256, (*size, 3), dtype=np.uint8), rule) for size in SIZES for rule in RULES]
    given = [
        {
            "width": image.shape[1],
            "height": image.shape[0],
            "data": np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]).ravel().tolist(),
            "rule": dataclasses.asdict(rule),
        }
        for image, rule in cases
    ]
    done = subprocess.run(
        ["node", "--input-type=module", "-e", SCRIPT, IMAGE_JS.as_uri()],
        input=json.dumps({"images": given}),
        capture_output=True,
        text=True,
        check=True,
    )
    return cases, json.loads(done.stdout)


def test_pixels_are_those_of_prediction(answered):
    cases, found = answered
    for (image, rule), answer in zip(cases, found["answers"]):
        expected = resize_and_crop(image, rule) if rule.backend == "cv2" else columns_then_rows(image, rule)
        assert answer["width"] == expected.shape[1]
        got = np.array(answer["pixels"]).reshape(expected.shape)
        np.testing.assert_array_equal(got, expected, err_msg=f"{rule} {image.shape}")


def columns_then_rows(image, rule):
    """As every Pillow before 13 resizes; 13 begins with the rows where that is cheaper, to a grey level or two."""
    height, width = image.shape[:2]
    factor = rule.resize_short / min(height, width)
    size, how = (round(width * factor), round(height * factor)), Image.Resampling[rule.interpolation.upper()]
    resized = np.asarray(Image.fromarray(image).resize((size[0], height), how).resize(size, how))
    left, top = (size[0] - rule.crop[0]) // 2, (size[1] - rule.crop[1]) // 2
    return resized[top : top + rule.crop[1], left : left + rule.crop[0]]


def test_inputs_are_those_of_prediction(answered):
    cases, found = answered
    for (image, rule), answer in zip(cases, found["answers"]):
        if rule.backend == "cv2":
            expected = network_input(image, rule).transpose(1, 2, 0)
            got = np.array(answer["input"], np.float32).reshape(expected.shape)
            np.testing.assert_array_equal(got, expected, err_msg=str(rule))


def test_scores_and_choice(answered):
    _, found = answered
    assert found["even"] == [0, 2, 2, 2, 3]
    assert found["probabilities"] == [0, 0, 1]
    assert found["sigmoids"] == [0.5, 1, 0]
    assert [item["index"] for item in found["best"]] == [1, 2]
    assert [item["index"] for item in found["shown"]] == [0, 1]
    assert [item["index"] for item in found["above"]] == [1, 2]
