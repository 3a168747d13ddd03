"""The objects for Kubernetes: rendered by Helm, as the base for Kustomize, and through an overlay.

All are valid by Kubernetes' schemas, and Sidegate accepts the configuration in them. Tests of the chart need Helm
(`python -m deploy helm`), tests of the overlay kubectl; without them they are skipped.
"""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from sidegate.config import Settings, examine, load

from deploy.charts import BASE, find_helm, render, rendered_base
from deploy.terminal import Trouble

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "deploy" / "kubernetes" / "example"
# The oldest version with the sleep action on by default, and the newest that the package knows.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
KUBECTL = shutil.which("kubectl")
Objects = list[dict[str, Any]]

# Values of each variant of the chart.
VARIANTS: dict[str, tuple[str, ...]] = {
    "defaults": ('application.image="registry/app:1"',),
    "all": (
        'application={"image":"registry/app:1","args":["serve"],"port":3000,"env":[{"name":"MODE","value":"live"}]}',
        'application.startupProbe={"exec":{"command":["true"]}}',
        'application.livenessProbe={"exec":{"command":["true"]}}',
        'application.readinessProbe={"exec":{"command":["true"]}}',
        "autoscaling.enabled=true",
        "podMonitor.enabled=true",
        'podMonitor.labels={"release":"prometheus"}',
        'store.urlSecret={"name":"{{ .Release.Name }}-redis","key":"uri"}',
        'trustedProxies=["10.4.0.0/28"]',
        'networkPolicy.from=[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ingress-nginx"}}}]',
        'config={"listen":{"drain_timeout":"10s"},"log":{"requests":"all"}}',
        'imagePullSecrets=[{"name":"registry"}]',
        'sidecar.env=[{"name":"OTEL_SERVICE_NAME","value":"shop"}]',
        'volumes=[{"name":"tmp","emptyDir":{}}]',
        'application.volumeMounts=[{"name":"tmp","mountPath":"/tmp"}]',
    ),
    "least": ('application.image="app"', "networkPolicy.enabled=false", "spread=[]", "replicas=1", 'store.url="redis://{{ .Release.Name }}-valkey:6379"'),
}  # fmt: skip
NAMES = ["base", "overlay", *VARIANTS]


@cache
def objects(name: str) -> Objects:
    """The objects of the base, of the overlay, or of a variant of the chart; skips where a tool is missing."""
    if name == "base":
        text = BASE.read_text("utf-8")
    elif name == "overlay":
        if KUBECTL is None:
            pytest.skip("no kubectl")
        text = subprocess.run(
            [KUBECTL, "kustomize", str(EXAMPLE)], capture_output=True, text=True, check=True, timeout=120
        ).stdout
    else:
        if find_helm() is None:
            pytest.skip("no helm; python -m deploy helm")
        text = render("shop", values=VARIANTS[name])
    return [each for each in yaml.safe_load_all(text) if each]


def the(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in objects(name) if each["kind"] == kind]
    return found


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = the("Deployment", name)["spec"]["template"]["spec"]
    return spec


def sidecar(name: str) -> dict[str, Any]:
    (container,) = pod(name)["initContainers"]
    return dict(container)


def settings_of(name: str, folder: Path) -> Settings:
    config = folder / "config.yaml"
    config.write_text(the("ConfigMap", name)["data"]["config.yaml"])
    values = {"REDIS_URL": "redis://store:6379"}
    environment = {each["name"]: each.get("value") or "a-secret-of-the-cluster" for each in sidecar(name)["env"]}
    return load(config, {**environment, **values})


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_each_object_is_valid_without_unknown_fields(name: str, version: str) -> None:
    known = [each for each in objects(name) if each["kind"] != "PodMonitor"]  # a custom resource: see below
    for each in known:
        kubernetes_validate.validate(each, version, strict=True)
    assert {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget"} <= {each["kind"] for each in known}


def test_the_schemas_reject_an_unknown_field() -> None:
    deployment = the("Deployment", "base")
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.skipif(find_helm() is None, reason="no helm; python -m deploy helm")
def test_the_base_is_rendered_from_the_chart() -> None:
    assert BASE.read_text("utf-8") == rendered_base(), "run: make kubernetes"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_sidegate_accepts_the_configuration(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, tmp_path)
    ports = {each["name"]: each["containerPort"] for each in sidecar(name)["ports"]}
    assert (settings.listen.port, settings.admin.port) == (ports["http"], ports["admin"])
    assert settings.admin.host == "0.0.0.0", "the kubelet probes the pod's address"
    assert settings.store.on_failure == "local"
    (app,) = pod(name)["containers"]
    assert {"name": "PORT", "value": str(settings.upstream.url.port)} in app["env"]
    sleep_s = app["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(name)["terminationGracePeriodSeconds"] > sleep_s + settings.listen.drain_timeout_s


@pytest.mark.parametrize("name", ["base", "overlay"])
def test_no_network_of_all_pods_is_trusted(name: str, tmp_path: Path) -> None:
    assert all(network.prefixlen >= 24 for network in settings_of(name, tmp_path).client_ip.trusted_proxies)


def test_the_overlays_configuration_gets_no_warning() -> None:
    environ = {"ADMIN_TOKEN": "a-secret-of-the-cluster", "REDIS_URL": "redis://store"}
    assert examine(EXAMPLE / "config.yaml", environ).warnings == ()


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_is_mounted_as_a_folder_so_that_edits_arrive(name: str) -> None:
    (mount,) = sidecar(name)["volumeMounts"]
    assert "subPath" not in mount
    environment = {each["name"]: each.get("value") for each in sidecar(name)["env"]}
    assert str(environment["CONFIG"]).startswith(mount["mountPath"] + "/")
    volumes = {each["name"]: each for each in pod(name)["volumes"]}
    assert volumes[mount["name"]]["configMap"]["name"] == the("ConfigMap", name)["metadata"]["name"]
    assert pod(name)["enableServiceLinks"] is False, "a service named admin would set ADMIN_PORT"


@pytest.mark.parametrize("name", NAMES)
def test_the_sidecar_is_native_and_both_containers_have_their_own_probes(name: str) -> None:
    assert sidecar(name)["restartPolicy"] == "Always"
    paths = {probe: each["httpGet"] for probe, each in sidecar(name).items() if probe.endswith("Probe")}
    assert paths == {
        "startupProbe": {"path": "/livez", "port": "admin"},
        "livenessProbe": {"path": "/livez", "port": "admin"},
        "readinessProbe": {"path": "/readyz", "port": "admin"},
    }
    (app,) = pod(name)["containers"]
    probes = {probe: each for probe, each in app.items() if probe.endswith("Probe")}
    assert set(probes) == {
        "base": {"startupProbe", "livenessProbe"},
        "overlay": {"startupProbe", "livenessProbe"},
        "all": {"startupProbe", "livenessProbe", "readinessProbe"},
    }.get(name, set()), "the probes that the values name, and no others"
    assert all("exec" in probe for probe in probes.values()), "httpGet cannot reach a port on loopback"


@pytest.mark.parametrize("name", NAMES)
def test_every_container_has_the_least_privileges_and_bounded_memory(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    for container in (sidecar(name), *pod(name)["containers"]):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", NAMES)
def test_all_objects_select_the_same_pods(name: str) -> None:
    labels = the("Deployment", name)["spec"]["template"]["metadata"]["labels"]
    assert the("Service", name)["spec"]["selector"] == labels
    for each in objects(name):
        match each["kind"]:
            case "NetworkPolicy":
                assert each["spec"]["podSelector"]["matchLabels"] == labels
            case "Deployment" | "PodDisruptionBudget" | "PodMonitor":
                assert each["spec"]["selector"]["matchLabels"] == labels
    for spread in pod(name).get("topologySpreadConstraints", ()):
        assert spread["labelSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("name", NAMES)
def test_unready_pods_can_be_evicted_so_that_nodes_drain(name: str) -> None:
    assert the("PodDisruptionBudget", name)["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_autoscaler_looks_at_the_application_alone_and_sets_the_number_of_pods() -> None:
    scaler, deployment = the("HorizontalPodAutoscaler", "all"), the("Deployment", "all")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (metric,) = scaler["spec"]["metrics"]
    assert metric["containerResource"]["container"] == pod("all")["containers"][0]["name"]
    assert "replicas" not in deployment["spec"]


def test_the_pod_monitor_scrapes_the_admin_port_under_a_job_of_its_own() -> None:
    monitor = the("PodMonitor", "all")
    assert "sidegate" in monitor["metadata"]["name"], "the alerts select jobs with this word"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "admin", "path": "/metrics", "interval": "15s"}]


def test_the_store_is_referred_to_by_a_secret_or_by_the_name_of_a_subchart() -> None:
    by_secret = next(each for each in sidecar("all")["env"] if each["name"] == "REDIS_URL")
    assert by_secret["valueFrom"]["secretKeyRef"] == {"name": "shop-redis", "key": "uri"}
    by_name = next(each for each in sidecar("least")["env"] if each["name"] == "REDIS_URL")
    assert by_name["value"] == "redis://shop-valkey:6379"


def test_values_of_the_chart_reach_the_configuration(tmp_path: Path) -> None:
    settings = settings_of("all", tmp_path)
    assert (settings.listen.drain_timeout_s, settings.log.requests) == (10.0, "all")
    assert settings.listen.port == 8080, "a section is merged and not replaced"
    assert list(map(str, settings.client_ip.trusted_proxies)) == ["10.4.0.0/28"]


@pytest.mark.skipif(find_helm() is None, reason="no helm; python -m deploy helm")
@pytest.mark.parametrize(
    "value", ['application.image=""', "replica=3", 'store.onFailure="open"', "application.port=0", "trustedProxies=10"]
)
def test_the_chart_refuses_values_that_it_does_not_know(value: str) -> None:
    with pytest.raises(Trouble) as refused:
        render("shop", values=[value])
    assert value.partition("=")[0].partition(".")[0] in " ".join(refused.value.advice)
