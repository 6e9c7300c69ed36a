"""PaddleSeg: our nets as its backbones."""
