# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First steps with ppcls_ext
#
# From a folder of images to a file that runs without Paddle: install, own images, train, look, export, predict. It takes a
# few minutes on a CPU.

# %% [markdown]
# ## Settings
#
# `IMAGES` is a folder with one folder a class. Where it does not exist, the notebook makes one of handwritten digits, so that
# it runs as it is. Put the path of your own folder here. `WHEEL` is the wheel to install, where ppcls_ext is not installed yet.

# %%
import os
from pathlib import Path

IMAGES = Path("images")
WHEEL = "ppcls_ext-0.2.0-py3-none-any.whl"
EPOCHS = int(os.environ.get("NOTEBOOK_EPOCHS", "15"))
SIZE = 32  # px; 224 for photographs

# %% [markdown]
# ## Install

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("ppcls_ext") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{WHEEL}[all]"], check=True)  # on a GPU: [train,onnx,report] beside your paddlepaddle-gpu
    subprocess.run([*pip, "--no-deps", "paddleclas==2.4.2"], check=True)

# %% [markdown]
# ## Own images

# %%
if not IMAGES.exists():
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits(n_class=3)
    for index, (pixels, label) in enumerate(zip(digits.images[:150], digits.target)):
        path = IMAGES / ["zero", "one", "two"][label] / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 - pixels * 15).astype("uint8")).resize((SIZE, SIZE)).convert("RGB").save(path)

print({folder.name: len(list(folder.iterdir())) for folder in sorted(IMAGES.iterdir()) if folder.is_dir()})

# %% [markdown]
# ## Train
#
# A fifth of the images is held out and measured after each epoch; the best epoch is kept. For photographs add
# `weights="published"`, which downloads weights to start from, and leave `size` out.

# %%
import ppcls_ext

run = ppcls_ext.train("FasterNet_T0", data=IMAGES, size=SIZE, epochs=EPOCHS, workers=0, seed=1, report=True)
print(run.evaluate())

# %% [markdown]
# ## Look
#
# The first batch as the network sees it, and the curves. `report/report.html` in the run's folder has confusions and mistakes.

# %%
from IPython.display import Image as Shown
from IPython.display import display

for name in ("batch.png", "curves.png"):
    if (run.folder / name).exists():  # they need the extra [report]
        display(Shown(run.folder / name))

# %% [markdown]
# ## Export
#
# The network is fused, converted to ONNX, and compared with the trained one before the file appears.

# %%
report = run.export_onnx()
print(report)

# %% [markdown]
# ## Predict
#
# With onnxruntime, NumPy and Pillow alone: `pip install "ppcls-ext[predict]"` where the file is used.

# %%
classifier = ppcls_ext.Classifier(report.path)
some = [next(folder.iterdir()) for folder in sorted(IMAGES.iterdir()) if folder.is_dir()]
for path, answer in zip(some, classifier(some, topk=2)):
    print(path, answer["label_names"], answer["scores"])
