"""PaddleDetection and PaddleSeg: our nets as their backbones, trained and exported by their own scripts."""
