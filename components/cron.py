"""Cron lines: when a schedule's runs are due, checked before Vertex AI is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Self
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from components.earthengine.errors import ScheduleError

_ZONE = re.compile(r"(?:CRON_)?TZ=(.*)")
# The five fields of crontab(5). CronSim knows seconds, L and # as well, which Vertex AI refuses (INFERRED: not named).
_FIELD = re.compile(r"[0-9A-Za-z*,/-]+")
_LAST = re.compile(r"(?<![A-Z])L", re.IGNORECASE)
_ALLOWED = (
    "allowed are five fields: minute 0-59, hour 0-23, day of month 1-31, month 1-12 or JAN-DEC, day of week 0-7 or "
    "SUN-SAT, each *, a value, a range, a list or a step, and TZ=ZONE before them (without it, UTC), as in "
    "'TZ=Europe/Paris 0 3 * * 1': Mondays at 3 in Paris"
)


@dataclass(frozen=True)
class Cron:
    """A cron line, with one blank between its parts, and the time zone that it is told in."""

    line: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a cron line such as `0 3 * * 1` or `TZ=Europe/Paris 0 3 * * 1`.

        Raises:
            ScheduleError: it is none, it is never due, or there is no such time zone.
        """
        words = text.split()
        named = _ZONE.fullmatch(words[0]) if words else None
        fields = words[1:] if named else words
        if len(fields) != 5:
            raise _invalid(text, f"has {len(fields)} field{'s' * (len(fields) != 1)}")
        for field in fields:
            if not _FIELD.fullmatch(field) or _LAST.search(field):
                raise _invalid(text, f"has a field {field!r}")
        zone = _zone(text, named[1]) if named else ZoneInfo("UTC")
        try:
            CronSim(" ".join(fields), datetime.now(zone))
        except CronSimError as error:
            raise _invalid(text, f"has a {str(error).lower()}") from error
        except ValueError as error:  # of more digits than int() reads
            raise _invalid(text, f"cannot be read ({error})") from error
        return cls(" ".join(words), zone)


def _zone(text: str, name: str) -> ZoneInfo:
    # Two of what Python lists are this machine's own and none.
    zones = available_timezones() - {"localtime", "Factory"}
    if name in zones:
        return ZoneInfo(name)
    near = get_close_matches(name, zones, n=1)
    raise ScheduleError(
        f"cron {text!r} names the time zone {name!r}, which is not in the IANA data base; "
        + (f"is {near[0]} meant?" if near else "allowed are names such as Europe/Paris or America/New_York")
    )


def _invalid(text: str, why: str) -> ScheduleError:
    return ScheduleError(f"cron {text!r} {why}; {_ALLOWED}")
