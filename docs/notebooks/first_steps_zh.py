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
# # ppcls_ext 入门
#
# 从一个图像文件夹到一个不依赖 Paddle 即可运行的模型文件：安装、准备图像、训练、查看结果、导出、预测。在 CPU 上只需几分钟。

# %% [markdown]
# ## 设置
#
# `IMAGES` 是图像文件夹，每个类别一个子文件夹。如果它不存在，本笔记本会用手写数字生成一个，因此无需改动即可运行。使用自己的图像时，
# 把路径填在这里。`WHEEL` 是尚未安装 ppcls_ext 时要安装的 wheel 文件。

# %%
import os
from pathlib import Path

IMAGES = Path("images")
WHEEL = "ppcls_ext-0.2.0-py3-none-any.whl"
EPOCHS = int(os.environ.get("NOTEBOOK_EPOCHS", "15"))
SIZE = 32  # 像素；照片用 224

# %% [markdown]
# ## 安装

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("ppcls_ext") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{WHEEL}[all]"], check=True)  # 有 paddlepaddle-gpu 时用 [train,onnx,report]
    subprocess.run([*pip, "--no-deps", "paddleclas==2.4.2"], check=True)

# %% [markdown]
# ## 准备图像

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
# ## 训练
#
# 五分之一的图像划入验证集，每轮结束后评估一次，保留效果最好的权重。训练照片时，请加上 `weights="published"`（下载预训练权重作为起点），
# 并去掉 `size`。

# %%
import ppcls_ext

run = ppcls_ext.train("FasterNet_T0", data=IMAGES, size=SIZE, epochs=EPOCHS, workers=0, seed=1, report=True)
print(run.evaluate())

# %% [markdown]
# ## 查看结果
#
# 下面是送入网络的第一个批次和训练曲线。训练输出目录中的 `report/report.html` 列出了混淆矩阵和分类错误的图像。

# %%
from IPython.display import Image as Shown
from IPython.display import display

for name in ("batch.png", "curves.png"):
    if (run.folder / name).exists():  # 需要安装 [report]
        display(Shown(run.folder / name))

# %% [markdown]
# ## 导出
#
# 网络先融合，再转换为 ONNX，并与训练得到的网络比较；结果一致才会写出文件。

# %%
report = run.export_onnx()
print(report)

# %% [markdown]
# ## 预测
#
# 只需要 onnxruntime、NumPy 和 Pillow：在使用模型的机器上执行 `pip install "ppcls-ext[predict]"`。

# %%
classifier = ppcls_ext.Classifier(report.path)
some = [next(folder.iterdir()) for folder in sorted(IMAGES.iterdir()) if folder.is_dir()]
for path, answer in zip(some, classifier(some, topk=2)):
    print(path, answer["label_names"], answer["scores"])
