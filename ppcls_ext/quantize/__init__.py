"""int8 and fp16 of an exported file that keep its accuracy; needs NumPy, onnx and onnxruntime, no Paddle."""
