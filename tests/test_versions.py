from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.cloud.aiplatform_v1.types import Model

from components.versions import VERIFIED, VERIFIED_BY, LastVerification, last_verification


@pytest.mark.parametrize(("verdict", "passed"), [("passed", True), ("failed", False)])
def test_the_last_verification_is_read_from_the_labels(verdict: str, passed: bool) -> None:
    version = Model(labels={VERIFIED: f"{verdict}-2026-11-22t13-05-59-00-00", VERIFIED_BY: "run-1"})
    assert last_verification(version) == LastVerification(
        passed, datetime(2026, 11, 22, 13, 5, 59, tzinfo=UTC), "run-1"
    )


@pytest.mark.parametrize(
    "label", [None, "", "passed", "yes-2026-11-22t13-05-59-00-00", "passed-2026-13-22t13-05-59-00-00"]
)
def test_labels_of_others_tell_of_none(label: str | None) -> None:
    assert last_verification(Model(labels={} if label is None else {VERIFIED: label})) is None
