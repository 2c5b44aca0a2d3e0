"""From a typed ONNX graph to a cached TensorRT engine."""
