"""Export to ONNX, proved equal before the file is handed over, and running such files without Paddle."""
