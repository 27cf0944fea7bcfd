"""Coefficients inside ONNX graphs: how they are stored, which nodes make weights of them, how they are found."""
