"""How much the server takes at once, and why so much."""

from __future__ import annotations

# A dedicated endpoint carries 10 MB in either direction (Vertex AI, "Choose an endpoint type"), Earth Engine's
# requests are written for 1.5 MB; what is larger than this is no tile. gRPC's own default is 4 MiB.
MAX_REQUEST_BYTES = 16 << 20
MAX_RESPONSE_BYTES = 16 << 20

# Requests that wait or are worked on, of both transports; one more is answered "busy" at once, so that the caller
# can go to another replica. At 5 ms a request the last of them waits a third of a second, at 1 s a minute, which is
# when a shared endpoint gives up (Vertex AI, "Choose an endpoint type").
MAX_WAITING = 64
# All of them at their largest would be 1 GiB; this is sixteen at their largest.
MAX_WAITING_BYTES = 16 * MAX_REQUEST_BYTES

# A body that takes longer than this to arrive gives up its place.
BODY_S = 60.0

# A model that takes longer than this for one request hangs, and its process is replaced: a dedicated endpoint waits for
# 10 minutes unless told otherwise, a shared one for one (Vertex AI, "Choose an endpoint type").
ANSWER_S = 600.0

# Google's load balancers reuse a connection that was idle for up to 600 s, and ask servers to keep it for 620 s (Cloud
# Load Balancing, "Backend HTTP keepalive timeout"): a request that is sent as the server hangs up is lost.
KEEP_ALIVE_S = 620

# How long a stop waits for what is in flight: docker kills 10 s after SIGTERM, Kubernetes 30 s; Vertex AI names none.
GRACE_S = 9
