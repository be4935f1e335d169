"""A real PostgreSQL for tests, and PgBouncer before it. Each database that a test asks for is as good as new."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from agent.ledger.base import Server
from tests.servers.base import free_port, program, running, wait_until

# Durable as in life (fsync is on), only small.
_SETTINGS = {
    "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "60", "shared_buffers": "32MB",
    "max_wal_size": "256MB", "max_parallel_workers": "0", "autovacuum_naptime": "1h", "log_min_messages": "warning",
    "log_line_prefix": "%t [%p] ", "deadlock_timeout": "200ms",
}  # fmt: skip
PASSWORD = "not-for-the-log"


def _binary(name: str) -> str:
    """A program of the newest PostgreSQL that is installed; Debian keeps them outside of any PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]))
    if found:
        return str(found[-1])
    return program(name, "postgresql")


def _unprivileged(folder: Path) -> dict[str, int]:
    """PostgreSQL refuses to run as root: whom to run as, once the folder is theirs."""
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid}


class Postgres:
    """A server on loopback. Can be stopped (``immediate``: as a crash would) and started again."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._data = folder / "data"
        password = folder / "password"
        password.write_text(PASSWORD)
        self._as = _unprivileged(folder)
        subprocess.run(
            [_binary("initdb"), "-D", str(self._data), "-U", "mailvitals", "--auth=scram-sha-256",
             f"--pwfile={password}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"],
            check=True, capture_output=True, cwd=folder, **self._as,  # type: ignore[call-overload]
        )  # fmt: skip
        lines = [f"{name} = '{value}'\n" for name, value in {**_SETTINGS, **settings}.items()]
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(lines)

    def start(self) -> None:
        """Return when it takes connections."""
        command = [_binary("postgres"), "-D", str(self._data), "-p", str(self.port)]
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._as)  # type: ignore[call-overload]
        wait_until(self._up, 30, "PostgreSQL to be ready")

    def _up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended:\n{(self.folder / 'postgres.log').read_text()[-2000:]}")
        return self.sql("SELECT 1") == "1"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def stop(self, *, immediate: bool = False) -> None:
        """``immediate``: without a checkpoint, as in a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and says nothing."""
        for pid in (self.pid, *self.children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in (*self.children(), self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """All of it at once, as the machine's death would."""
        assert self._process is not None
        children = self.children()
        for pid in (self.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10, "its processes to end")
        self._process = None

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for a statement: values without headings. An error of it is an ``OSError``."""
        done = subprocess.run(
            [_binary("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U",
             "mailvitals", "-c", statement, database],
            capture_output=True, text=True, env={"PGPASSWORD": PASSWORD}, check=False, timeout=30,
        )  # fmt: skip
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    def create(self, database: str) -> None:
        self.sql(f"CREATE DATABASE {database}")

    def url(self, database: str, port: int | None = None) -> str:
        """Without the password."""
        return f"postgresql://mailvitals@127.0.0.1:{port or self.port}/{database}"


@contextlib.contextmanager
def postgres(**settings: str) -> Iterator[Postgres]:
    """A running server of the test's own."""
    folder = Path(tempfile.mkdtemp(prefix="mailvitals-pg-"))
    folder.chmod(0o755)
    try:
        server = Postgres(folder, **settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def pgbouncer(server: Postgres, folder: Path, database: str) -> Iterator[int]:
    """PgBouncer in transaction mode before a database, with two connections to it in all; its port."""
    port = free_port()
    folder.chmod(0o755)
    users = folder / "users.txt"
    users.write_text(f'"mailvitals" "{PASSWORD}"\n')
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{database} = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )
    command = [program("pgbouncer", "pgbouncer"), "-q", str(config)]
    if os.getuid() == 0:
        command[1:1] = ["-u", "nobody"]

    def up() -> bool:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True

    with running(command, folder / "pgbouncer.log", up):
        yield port


@cache
def shared() -> Postgres:
    """One server for all tests that need no more than a database; it ends with them."""
    stack = contextlib.ExitStack()
    server = stack.enter_context(postgres())
    atexit.register(stack.close)
    server.create("shared")
    return server


# Quicker than a database a test: nothing is made, and no file is touched that has no rows.
_EMPTY = """
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = to_regnamespace('mailvitals')
    AND relkind = 'r' AND relname NOT IN ('turn', 'day', 'meta', 'lease') LOOP EXECUTE 'DELETE FROM ' || name; END LOOP;
  IF to_regclass('mailvitals.meta') IS NOT NULL THEN
    DELETE FROM mailvitals.meta WHERE meta.name <> 'schema_version';
    UPDATE mailvitals.lease SET holder = '', epoch = 0, expires = '-infinity';
  END IF;
END $$
"""


def database_of(folder: Path) -> Server:
    """A database that belongs to the folder: empty the first time, the same again after that. Only one folder at a time
    has one."""
    server = shared()
    mark = folder / "postgresql"
    if not mark.exists():
        mark.touch()
        server.sql(_EMPTY, "shared")
    return Server(server.url("shared"), PASSWORD)
