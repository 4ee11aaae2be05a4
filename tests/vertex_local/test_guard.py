"""What a command runs under a guard for: that it ends with who started it."""

import signal
import subprocess

import pytest

from containers import guard


def test_a_command_whose_parent_is_gone_before_it_starts_is_ended() -> None:
    for _ in range(20):
        with subprocess.Popen(guard.command(["sleep", "30"]), stdin=subprocess.PIPE, start_new_session=True) as process:
            assert process.stdin
            process.stdin.close()
            assert process.wait(3) in (128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -SEGV $$", 139)])
def test_its_exit_status_is_the_commands(script: str, status: int) -> None:
    command = guard.command(["sh", "-c", script])
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.wait(20) == status
