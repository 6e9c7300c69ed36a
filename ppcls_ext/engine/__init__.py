"""PaddleClas's engine, and ours around it."""
