"""Running ONNX models with onnxruntime: sessions, what models take, what they cost.

onnxruntime and onnx are optional (`pip install 'frconvert[runtime]'`) and imported where they are used.
"""
