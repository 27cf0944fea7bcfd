"""Coefficients inside ONNX graphs: how they are stored, what nodes make weights of them, how to find them."""
