"""The quota that model servers are charged to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from components.check import Finding
from components.doctor.needs import Needs, failed

# "Custom model serving CPUs per region": the quota's id is the one that Vertex AI's errors name. That it is of N1 and
# E2 machines, and that others have quotas of their own, is INFERRED from the console's list.
_QUOTA = "CustomModelServingCPUsPerProjectPerRegion"
_MACHINE = re.compile(r"(n1|e2)-(standard|highmem|highcpu)-(?P<cpus>\d+)")
# The endpoint's own, and as many on the trial endpoint while a run lasts.
_COPIES = 2


def check_quota(needs: Needs) -> Iterator[Finding]:
    """The limit has room for a run; how much of it is in use already is not told."""
    machine = _MACHINE.fullmatch(needs.machine_type)
    if machine is None:
        yield Finding("quota", "warning", f"of {needs.machine_type} is not known here; see the project's quotas page")
        return
    wanted = int(machine["cpus"]) * needs.replicas * _COPIES
    name = f"projects/{needs.project.id}/locations/global/services/aiplatform.googleapis.com/quotaInfos/{_QUOTA}"
    infos = needs.project.quotas.get_quota_info(name=name).dimensions_infos
    # The region's own limit, else that of every region without one.
    limits = {each.dimensions.get("region"): each.details.value for each in infos}
    limit = limits.get(needs.location, limits.get(None, 0))
    unlimited = limit == -1  # as in Service Usage; that Cloud Quotas says it so too is INFERRED
    text = (
        f"{'CPUs without limit' if unlimited else f'{limit} CPUs'} for serving in {needs.location}; "
        f"a run takes {wanted}, half of them for its trial endpoint"
    )
    if unlimited or limit >= wanted:
        yield Finding("quota", "passed", f"{text} (what is in use already is not told)")
        return
    command = (
        f"gcloud beta quotas preferences create --service=aiplatform.googleapis.com --quota-id={_QUOTA} "
        f"--preferred-value={wanted} --dimensions=region={needs.location} --project={needs.project.id}"
    )
    yield failed("quota", text, command)
