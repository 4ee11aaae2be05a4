"""Projects: requests name them by id or number, answers by number, as the service does."""

import hashlib
import re
from typing import Any

from .store import Store

_KIND = "Project"
_NAME = re.compile(r"projects/(?P<project>[^/]+)(?=/locations/)")
# Where requests hold resource names. What users say themselves, such as a pipeline's parameters, stays as it is.
_NAMES = frozenset({"name", "parent", "endpoint", "model", "parent_model", "filter"})
_INSIDE = frozenset({"model", "endpoint", "deployed_model", "schedule", "create_pipeline_job_request"})


class Projects:
    """The projects that requests have named so far."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids = dict(store.rows(_KIND))

    def numbered(self, name: str) -> str:
        """A resource name, or a filter with some in it, with the project's number in place of its id."""
        return _NAME.sub(lambda found: f"projects/{self.number_of(found['project'])}", name)

    def number(self, message: Any) -> None:
        """Does so to the names in a request."""
        for field, value in message.ListFields():
            if field.name in _NAMES and isinstance(value, str):
                setattr(message, field.name, self.numbered(value))
            elif field.name == "names":
                value[:] = [self.numbered(name) for name in value]
            elif field.name in _INSIDE and field.message_type and not isinstance(value, str):
                self.number(value)

    def id_of(self, name: str) -> str:
        """The id of the project that a resource lies in; the number where no request has named the id."""
        number = name.split("/")[1]
        return self._ids.get(number, number)

    def number_of(self, project: str) -> str:
        """The number of the project of an id, or of that number."""
        if project.isdecimal():
            return project
        digest = hashlib.sha256(project.encode()).digest()
        number = str(10**11 + int.from_bytes(digest[:8]) % (9 * 10**11))
        if number not in self._ids:
            self._ids[number] = project
            self._store.write(_KIND, number, project)
        return number
