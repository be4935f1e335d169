"""Rendered Kubernetes objects, and the settings within them, for the tests of this folder."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).parents[2]
SECRETS = "/etc/mailvitals-secrets"


def kustomize(folder: str) -> list[dict[str, Any]]:
    """The objects ``kubectl kustomize`` makes of a folder of this repository."""
    done = subprocess.run(
        [Path(sys.executable).parent / "kubectl", "kustomize", ROOT / folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


kustomized = functools.cache(kustomize)


def one(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """The only object of that kind (and name)."""
    found = [o for o in objects if o["kind"] == kind and name in ("", o["metadata"]["name"])]
    assert len(found) == 1, (kind, name, [o["metadata"]["name"] for o in found])
    return found[0]


def verification_key() -> str:
    """A public key as SendGrid shows it: base64 of a P-256 SubjectPublicKeyInfo."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "".join(pem.decode().splitlines()[1:-1])


def secret_files(folder: Path, contents: dict[str, str]) -> None:
    for name, content in contents.items():
        (folder / name).write_text(content + "\n")
