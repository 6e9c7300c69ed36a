"""Metadata of ppcls-ext. PaddleClas itself is not listed: see docs/reference/paddleclas.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "ppcls_ext" / "__init__.py").read_text(encoding="utf-8")).group(1)

OPENCV = "opencv-python-headless>=4.5.5.64"
# What PaddleClas 2.4.2's engine imports, without its pins of 2021 that no current Python can install; and filelock.
ENGINE = [
    OPENCV,
    "prettytable",
    "requests",
    "ujson",
    "tqdm",
    "visualdl>=2.5.0",
    "scipy",
    "scikit-learn>=1.2.0",
    "easydict",
    "faiss-cpu",
    "gast",
    "filelock>=3.12.0",
]
# paddle2onnx has no wheel for Python 3.13: all but the export to ONNX works there, and the export says so.
ONNX = [
    'paddle2onnx>=2.1.0; python_version < "3.13"',
    "onnx>=1.16.1",
    "onnxslim>=0.1.90",
    "onnxruntime>=1.19.2",
    "tqdm",
]
# An extra, so that nothing replaces a paddlepaddle-gpu; tqdm and filelock are for downloads of weights.
PADDLE = ["paddlepaddle>=3.0.0,<4", "tqdm", "filelock>=3.12.0"]
EXTRAS = {
    "predict": ["onnxruntime>=1.19.2"],
    "video": [OPENCV],  # predict --video
    "train": ENGINE,
    "paddle": PADDLE,
    "onnx": ONNX,
    "report": ["matplotlib>=3.9.2", "zhplot>=1.0.0"],  # zhplot for its font: names in Chinese and many other scripts
}
DOCS = [
    "sphinx>=7.3.7",
    "docutils>=0.21.2",  # whose formulas become MathML
    "myst-parser>=3.0.0",
    "furo>=2024.5.6",
    "sphinx-copybutton>=0.5.2",
]
# What reads our ONNX file and proves the others; ai-edge-litert brings the schema of .tflite files.
FILES = ["onnx>=1.16.1", "onnxruntime>=1.19.2"]
PHONES = {
    "tflite": ['ai-edge-litert>=1.2.0; python_version >= "3.10"', "flatbuffers>=24.3.25", *FILES],
    "coreml": ["coremltools>=8.0", *FILES],
    "ncnn": ["ncnn>=1.0.20240820", *FILES],
}
DEV = [
    *DOCS,
    "jupytext>=1.16.2",
    "nbclient>=0.10.0",
    "ipykernel>=6.29.0",
    "twine>=5.1.0",
    "build>=1.2.0",
    "pytest>=7.0.0",
    "pytest-xdist>=3.0.2",
    "ruff>=0.5.0",
    "hypothesis>=6.75.0",
    "mypy>=1.14.0",
    "playwright>=1.40",  # drives the browser that opens the exported web page
    "types-PyYAML",
    "setuptools>=77.0.3",
    "openvino>=2024.4.0",
    *(requirement for extra in PHONES.values() for requirement in extra),
    "tifffile>=2022.5.4",
]
ALL = sorted({requirement for extra in EXTRAS.values() for requirement in extra})


def read_me() -> str:
    """The README for a package page: links to files and headings of this repository as plain text."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", text)
    text = re.sub(
        r"\[([^\]]+)\]\((?!\w+:)([^)]+)\)",
        lambda link: link[1] if link[1] == link[2] else f"{link[1]} ({link[2]})",
        text,
    )
    return re.sub(r"!([^\]]+) \(\S+\.(?:png|svg)\)\n?", "", text)


class BuildWithPages(build_py):
    """Also copies the pages of docs/ into the package, where `ppcls-ext docs` reads them."""

    def run(self) -> None:
        """Called by setuptools."""
        super().run()
        if getattr(self, "editable_mode", False):
            return  # which reads them from docs/
        for path in sorted((HERE / "docs").rglob("*.md")):
            target = Path(self.build_lib, "ppcls_ext", "pages", path.relative_to(HERE / "docs"))
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(
    name="ppcls-ext",
    version=VERSION,
    description="MobileOne, RepVGG and FasterNet for PaddleClas: trained with branches, shipped as plain convolutions",
    long_description=read_me(),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    cmdclass={"build_py": BuildWithPages},
    packages=find_packages(include=["ppcls_ext", "ppcls_ext.*"]),
    package_data={"ppcls_ext": ["py.typed"], "ppcls_ext.export": ["web/*"]},
    entry_points={"console_scripts": ["ppcls-ext = ppcls_ext.commands.main:main"]},
    python_requires=">=3.9",
    install_requires=["numpy>=1.26.0", "pyyaml>=6.0", "pillow>=9.4.0", "safetensors>=0.4.0"],
    extras_require={
        **EXTRAS,
        "all": ALL,
        "dev": [*ALL, *DEV],
        "docs": [*ALL, *DOCS],
        "openvino": ["openvino>=2024.4.0", "onnx>=1.16.1"],
        **PHONES,
        "tiff": ["tifffile>=2022.5.4"],  # of TIFF files the bands that Pillow does not read
        "paddlex": ["paddlex[cv]>=3.7.0"],
        "peers": ["torch>=2", "timm>=1"],  # what benchmarks/train_step.py compares with
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
