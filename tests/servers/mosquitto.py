"""A real MQTT broker for tests: Mosquitto on loopback, whose death, silence and refusals are the test's to decide."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.servers.base import free_port, program, wait_until


class Mosquitto:
    """``acl`` is the text of an ACL file, for ``users`` by name and password; without users anybody may do anything."""

    def __init__(
        self, folder: Path, *, users: dict[str, str] | None = None, acl: str = "", options: Sequence[str] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.folder = folder
        self.log = folder / "mosquitto.log"
        self.config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "log_type all", "user root", f"persistence_location {folder}/"]
        if not any(option.startswith("persistence ") for option in options):
            lines += ["persistence false"]
        if users:
            passwords = folder / "passwords"
            passwords.write_text("".join(f"{name}:{word}\n" for name, word in users.items()))
            subprocess.run([program("mosquitto_passwd", "mosquitto"), "-U", passwords], check=True, capture_output=True)
            (folder / "acl").write_text(acl)
            for name in ("acl", "passwords"):
                (folder / name).chmod(0o600)
            lines += ["allow_anonymous false", f"password_file {passwords}", f"acl_file {folder / 'acl'}"]
        else:
            lines += ["allow_anonymous true"]
        self.config.write_text("\n".join([*lines, *options]) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as out:
            command = [program("mosquitto", "mosquitto"), "-c", str(self.config)]
            self.process = process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

        def up() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"mosquitto ended:\n{self.log.read_text()[-2000:]}")
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0

        wait_until(up, 10, "mosquitto to be ready")

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def freeze(self) -> None:
        """It keeps its connections and says nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """It loses what was in its memory."""
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.thaw()
            self._signal(signal.SIGTERM)
            self.process.wait(10)


@contextlib.contextmanager
def mosquitto(
    folder: Path, *, users: dict[str, str] | None = None, acl: str = "", options: Sequence[str] = ()
) -> Iterator[Mosquitto]:
    """A running broker."""
    one = Mosquitto(folder, users=users, acl=acl, options=options)
    try:
        one.start()
        yield one
    finally:
        one.stop()
