"""The project that the local Vertex AI stands in: the APIs of Google Cloud that tell what a project has and allows."""

from .apis import ProjectApis

__all__ = ["ProjectApis"]
