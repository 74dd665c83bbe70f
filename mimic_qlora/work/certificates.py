"""The certificates of a cluster: who has them may give it work, and nobody else."""

import datetime
import json
import os
import shlex
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import atomic_write, private_folder, resolved_path

DAYS = 365
NEEDED = "pip install -r requirements-cluster.txt -c requirements-pinned.txt"
CONFIG = """\
# Read by `dask scheduler` and `dask worker` when DASK_CONFIG names this folder.
distributed:
  comm:
    default-scheme: tls
    require-encryption: true
    tls:
      ca-file: {ca}
      scheduler: {{cert: {cert}, key: {key}}}
      worker: {{cert: {cert}, key: {key}}}
      client: {{cert: {cert}, key: {key}}}
  # a look at itself a hundred times a second costs a worker 4% of a core
  admin:
    tick: {{interval: 1s, limit: 30s, cycle: 5s}}
    system-monitor: {{interval: 5s}}
  worker:
    profile: {{enabled: false}}
    memory: {{monitor-interval: 1s}}
  # Dask lets the allocator hand all memory back at once: a fifth more CPU goes into page faults
  nanny:
    pre-spawn-environ: {{MALLOC_TRIM_THRESHOLD_: null}}
"""


class Files(NamedTuple):
    """The files of a folder of certificates."""

    ca: Path  # by whom the certificate is signed; that key is not kept
    cert: Path  # of every scheduler, worker and command
    key: Path


def files_in(folder: Path) -> Files:
    """Return the files of a folder of certificates."""
    return Files(folder / "ca.pem", folder / "node.pem", folder / "node.key")


def checked(folder: Path) -> Files:
    """Return the files of a folder. Raises UserError when one is missing or open to others."""
    found = files_in(folder)
    for path in found:
        if not path.is_file():
            raise UserError(
                f"there is no {path}: `python convert_to_jsonl.py --make-certificates "
                f"{shlex.quote(str(folder))}` writes it"
            )
    if found.key.stat().st_mode & 0o077:
        command = f"chmod 600 {shlex.quote(str(found.key))}"
        raise UserError(f"others can read {found.key}: run `{command}`")
    return found


def make(name: str) -> Path:
    """Write new certificates into a folder, each readable by its owner alone; return the folder.

    Raises UserError where the folder has some: a cluster may use them.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise UserError(f"--make-certificates needs the package cryptography: {NEEDED}") from None
    folder = resolved_path(name)
    found = files_in(folder)
    config = folder / "dask.yaml"  # a folder of Dask's own settings has such a file too
    if there := [path for path in (*found, config) if os.path.lexists(path)]:
        raise UserError(f"{there[0]} is there already: give another folder, or remove it")
    private_folder(folder)
    now = datetime.datetime.now(datetime.timezone.utc)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"mimic-qlora {part}")])
        for part in ("authority", "node")
    ]
    signed = []
    for number, is_authority in enumerate((True, False)):
        builder = x509.CertificateBuilder(
            names[0], names[number], keys[number].public_key(), x509.random_serial_number(),
            now - datetime.timedelta(minutes=5), now + datetime.timedelta(days=DAYS),
        )  # fmt: skip
        limits = x509.BasicConstraints(is_authority, None)
        signed.append(builder.add_extension(limits, True).sign(keys[0], hashes.SHA256()))
    key = keys[1].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    texts = [certificate.public_bytes(serialization.Encoding.PEM) for certificate in signed]
    for path, text in zip(found, [*texts, key], strict=True):
        atomic_write(path, text)
    quoted = {name: json.dumps(str(path)) for name, path in found._asdict().items()}
    atomic_write(config, CONFIG.format(**quoted))
    return folder
