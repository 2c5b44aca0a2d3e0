"""From a renderer stage to a typed ONNX graph."""
