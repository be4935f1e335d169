"""The walk through the README, typed as it stands there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.servers.agent import ROOT, environment
from tests.servers.base import free_port, program


def test_five_minutes_lead_to_the_first_alert(tmp_path: Path) -> None:
    program("prometheus-alertmanager", "prometheus-alertmanager")
    section = (ROOT / "README.md").read_text().partition("## First alert in five minutes")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 3
    # The same words, on free ports and in a folder of the test's own.
    replace = {str(port): str(free_port()) for port in (8080, 8081, 9093)}
    replace |= {"/tmp/mailvitals-first": str(tmp_path), "examples/first-alert.yaml": str(tmp_path / "first-alert.yaml")}

    def own(text: str) -> str:
        for old, new in replace.items():
            text = text.replace(old, new)
        return text

    (tmp_path / "first-alert.yaml").write_text(own((ROOT / "examples/first-alert.yaml").read_text()))
    # Installed or not, the command is the one of this checkout.
    command = tmp_path / "bin" / "mailvitals"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m agent "$@"\n')
    command.chmod(0o755)
    script = own("".join(blocks)).replace("$PWD/.venv/bin", str(command.parent))
    with (tmp_path / "out").open("w+") as out:
        process = subprocess.Popen(
            ["bash", "-eu", "-c", script], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env={**environment(), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        try:
            code = process.wait(150)
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the two servers, started in its session
        out.seek(0)
        text = out.read()
    assert code == 0, text
    alerts = text.rpartition("Labels")[2]
    assert alerts.count("MailTargetBreached") == 1, text
    assert 'domain="first.example"' in alerts
    assert 'target="bounce"' in alerts
    assert "MailDnsCheckFailing" not in alerts
