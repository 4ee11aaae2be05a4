# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
"""A pipeline of one step that logs an error of Cloud Storage and ends with another."""

from kfp import dsl


@dsl.component(base_image="registry/local/images/steps:1", install_kfp_package=False)
def leak(storage: str) -> None:
    import logging
    import os

    os.environ["STORAGE_EMULATOR_HOST"] = storage
    from components.earthengine.errors import PipelineError
    from components.storage import read_text

    try:
        read_text("gs://b/logged")
    except PipelineError:
        logging.getLogger("components.conclude").exception("not tidied up")
    read_text("gs://b/uncaught")


@dsl.pipeline(name="leaking")
def leaking(storage: str) -> None:
    leak(storage=storage)
