"""PaddleDetection: the networks as its backbones, and the changes to it."""
