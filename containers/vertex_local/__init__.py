"""Vertex AI on one machine: registry, endpoints, predictions and pipeline jobs over the service's own REST API.

Run it with ``python -m containers.vertex_local --port N --state DIR`` and point the official SDK at it with
``api_endpoint="http://127.0.0.1:N"`` and ``api_transport="rest"``.
"""
