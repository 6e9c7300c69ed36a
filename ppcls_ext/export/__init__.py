"""Export to ONNX, proved equal before the file is handed over."""
