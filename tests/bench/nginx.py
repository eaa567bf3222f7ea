"""nginx, the peer beside which Firedoor is measured: TLS 1.3 with a required client certificate."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

from firedoor.runtime.keys.tls import Credentials

START_S = 10.0

SETTINGS = """\
daemon off; user {user}; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{ access_log off; sendfile on; server {{
  listen {address} ssl; root {folder}/www;
  ssl_certificate {folder}/identity.pem; ssl_certificate_key {folder}/identity.pem;
  ssl_client_certificate {folder}/ca.pem; ssl_verify_client on; ssl_protocols TLSv1.3;
}} }}
"""


def find_nginx() -> str | None:
    """Its path, if it is installed; Debian keeps it where only root looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@contextmanager
def nginx_serving(
    payload: Path, folder: Path, credentials: Credentials, address: str, prefix: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """nginx with `payload` at `/load` on `address`, while entered; its master process."""
    nginx = find_nginx()
    assert nginx is not None
    folder.mkdir()
    (folder / "www").mkdir()
    shutil.copy(payload, folder / "www" / "load")
    (folder / "identity.pem").write_bytes(credentials.key + credentials.certificate)
    (folder / "ca.pem").write_bytes(credentials.ca)
    settings = folder / "nginx.conf"
    settings.write_text(SETTINGS.format(folder=folder, address=address, user=getuser()), "utf-8")
    server = subprocess.Popen([*prefix, nginx, "-c", str(settings), "-p", str(folder)])
    try:
        deadline = time.monotonic() + START_S
        while not (folder / "nginx.pid").exists() or not children_of(server.pid):
            if time.monotonic() > deadline:
                raise SystemExit("nginx did not start")
            time.sleep(0.05)
        yield server
    finally:
        server.terminate()
        server.wait()


def children_of(pid: int) -> list[int]:
    """The child processes of one that lives."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()]
