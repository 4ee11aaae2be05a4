"""When a schedule's runs are due: a cron line, with the time zone that it may begin with."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..errors import InvalidArgumentError

_LINE = re.compile(r"(?:(?:CRON_)?TZ=(?P<zone>\S+)\s+)?(?P<fields>.*\S)\s*", re.DOTALL)
# The five fields of crontab(5); CronSim knows more, which the service does not.
_FIELDS = re.compile(r"[0-9A-Za-z*,/-]+(\s+[0-9A-Za-z*,/-]+){4}")
_LAST = re.compile(r"(?<![A-Za-z])L")


@dataclass(frozen=True)
class Cron:
    """A cron line such as ``0 3 * * 1`` or ``TZ=Europe/Paris 0 3 * * 1``; UTC without a zone."""

    fields: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, line: str) -> "Cron":
        """Reads a cron line.

        Raises:
            InvalidArgumentError: it is none, or its zone is not in the IANA data base.
        """
        parts = _LINE.fullmatch(line)
        if not parts or not _FIELDS.fullmatch(parts["fields"]) or _LAST.search(parts["fields"]):
            raise _invalid(line, "five fields are wanted: minute, hour, day of month, month, day of week")
        try:
            zone = ZoneInfo(parts["zone"] or "UTC")
        except (ValueError, OSError, LookupError) as fault:
            raise _invalid(line, f"there is no time zone {parts['zone']!r}") from fault
        try:
            CronSim(parts["fields"], datetime.now(zone))
        except CronSimError as fault:
            raise _invalid(line, str(fault)) from fault
        return cls(parts["fields"], zone)

    def next_after(self, moment: datetime) -> datetime:
        """The first time after ``moment``, in UTC.

        Where clocks are put forward, a time that does not exist is taken at the next one that does; where they are put
        back, one that comes twice is taken once.

        Raises:
            InvalidArgumentError: there is none before the calendar ends.
        """
        try:
            return next(CronSim(self.fields, moment.astimezone(self.zone))).astimezone(UTC)
        except (OverflowError, StopIteration) as fault:
            raise InvalidArgumentError(f"The cron {self.fields!r} is never due after {moment.isoformat()}") from fault


def _invalid(line: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"Invalid cron {line!r}: {why}; one reads like '0 3 * * 1' or 'TZ=Europe/Paris 0 3 * * 1'"
    )
