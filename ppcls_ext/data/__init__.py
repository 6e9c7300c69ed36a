"""Datasets and PaddleClas image lists."""
