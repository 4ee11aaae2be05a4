"""Whether a server in this container answers: ``python -m containers.health PORT PATH``, for an image's HEALTHCHECK.

Nothing but the standard library, as it is started every two seconds.
"""

import http.client
import sys

_TIMEOUT_S = 1.5


def main(port: int, path: str) -> int:
    """0 where the server gives an answer that is no fault of its own; a function that expects an event answers 4xx."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as fault:
        print(f"nothing answers on port {port}: {fault}")  # noqa: T201 -- docker inspect shows it
        return 1
    if status >= 500:
        print(f"{path} on port {port} is answered with {status}")  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
