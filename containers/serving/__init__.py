"""The prediction server: payload formats of Earth Engine over HTTP and gRPC, for PyTorch and TensorFlow.

Vertex AI's contract for it is "Custom container requirements for inference": the AIP_* variables, a
health and a predict route, a gRPC port.
"""
