"""The bucket that models are submitted from."""

from __future__ import annotations

from collections.abc import Iterator

from google.api_core import exceptions

from components.check import Finding
from components.doctor.needs import Needs, failed


def check_location(needs: Needs) -> Iterator[Finding]:
    """The bucket exists and lies in the region of the run alone."""
    uri = f"gs://{needs.bucket}"
    try:
        found = needs.project.storage.get_bucket(needs.bucket, retry=None)
    except exceptions.NotFound:
        yield failed("bucket", f"{uri} does not exist", _create(needs, needs.bucket))
        return
    if found.location.lower() == needs.location:
        yield Finding("bucket", "passed", f"{uri} lies in {needs.location}")
        return
    where = found.location.lower() if found.location_type == "region" else f"the {found.location_type} {found.location}"
    # A bucket stays where it was made.
    another = _create(needs, f"{needs.bucket}-{needs.location}")
    yield failed("bucket", f"{uri} lies in {where}, it is to lie in the single region {needs.location}", another)


def _create(needs: Needs, name: str) -> str:
    return (
        f"gcloud storage buckets create gs://{name} --project={needs.project.id} --location={needs.location} "
        "--uniform-bucket-level-access"
    )
