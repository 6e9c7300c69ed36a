"""The hosts of dense prediction, PaddleDetection and PaddleSeg: what both share."""
