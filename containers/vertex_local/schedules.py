from typing import Any


class Schedules:
    def __init__(self, *a: Any) -> None: ...
    def all(self) -> list[Any]:
        return []

    def start(self) -> None: ...
    async def stop(self) -> None: ...
