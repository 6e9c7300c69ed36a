"""What PaddleDetection and PaddleSeg share as hosts: checkouts, networks without heads, proved exports."""
