"""deploy/kubernetes.yaml is valid by Kubernetes' schemas, and Sidegate accepts the configuration in it."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from sidegate.config import load

MANIFEST = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes.yaml"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text("utf-8")))
# The oldest version with the sleep action on by default, and the newest that the package knows.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]


def the(kind: str) -> dict[str, Any]:
    (found,) = [each for each in OBJECTS if each["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = the("Deployment")["spec"]["template"]["spec"]
    return spec


def sidecar() -> dict[str, Any]:
    (container,) = pod()["initContainers"]
    return dict(container)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("each", OBJECTS, ids=lambda each: each["kind"])
def test_each_object_is_valid_without_unknown_fields(each: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(each, version, strict=True)


def test_the_schemas_reject_an_unknown_field() -> None:
    deployment = the("Deployment")
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_sidegate_accepts_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(the("ConfigMap")["data"]["config.yaml"])
    environment = {each["name"]: each.get("value", "a-secret-of-the-cluster") for each in sidecar()["env"]}
    settings = load(config, environment)
    ports = {each["name"]: each["containerPort"] for each in sidecar()["ports"]}
    assert (settings.listen.port, settings.admin.port) == (ports["http"], ports["admin"])
    assert settings.admin.host == "0.0.0.0", "the kubelet probes the pod's address"
    drain_s = settings.listen.drain_timeout_s
    sleep_s = pod()["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > sleep_s + drain_s


def test_the_configuration_is_mounted_as_a_folder_so_that_edits_arrive() -> None:
    (mount,) = sidecar()["volumeMounts"]
    assert "subPath" not in mount
    assert {each["name"]: each.get("value") for each in sidecar()["env"]}["CONFIG"].startswith(mount["mountPath"] + "/")
    (volume,) = pod()["volumes"]
    assert (volume["name"], volume["configMap"]["name"]) == (mount["name"], the("ConfigMap")["metadata"]["name"])


def test_the_sidecar_is_native_and_its_probes_use_the_admin_port() -> None:
    assert sidecar()["restartPolicy"] == "Always"
    paths = {name: probe["httpGet"] for name, probe in sidecar().items() if name.endswith("Probe")}
    assert paths == {
        "startupProbe": {"path": "/livez", "port": "admin"},
        "livenessProbe": {"path": "/livez", "port": "admin"},
        "readinessProbe": {"path": "/readyz", "port": "admin"},
    }


@pytest.mark.parametrize("container", [sidecar(), *pod()["containers"]], ids=lambda each: each["name"])
def test_every_container_has_the_least_privileges_and_bounded_memory(container: dict[str, Any]) -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


def test_all_objects_select_the_same_pods() -> None:
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert the("Service")["spec"]["selector"] == labels
    for kind in ("NetworkPolicy",):
        assert the(kind)["spec"]["podSelector"]["matchLabels"] == labels
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert the(kind)["spec"]["selector"]["matchLabels"] == labels
