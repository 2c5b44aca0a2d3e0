"""What runs a stage: PyTorch, ONNX Runtime or TensorRT, behind one protocol."""
