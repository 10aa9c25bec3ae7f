"""What docker/ promises before anything of it runs: valid, confined, without secrets, in step."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from live_sweeps import ROOT

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
JOB, CLAIM = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
HEAD = CLUSTER["headGroupSpec"]["template"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
PODS = {
    "submitter": JOB["spec"]["submitterPodTemplate"],
    "head": HEAD,
    "worker": WORKERS["template"],
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = (ROOT / "requirements.lock").read_text().splitlines()
LOCK = dict(line.split(" ;")[0].split("==") for line in LOCKED)
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
TO_BUILDER = {line[1:] for line in IGNORED if line.startswith("!")}

JOB_FIELDS = {
    *("entrypoint", "backoffLimit", "submissionMode", "submitterPodTemplate", "rayClusterSpec"),
    *("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "suspend"),
    *("runtimeEnvYAML", "entrypointNumCpus", "submitterConfig"),
}
CLUSTER_FIELDS = {
    *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec"),
    *("workerGroupSpecs", "gcsFaultToleranceOptions", "networkPolicy"),
}
AUTOSCALER_FIELDS = {
    *("version", "idleTimeoutSeconds", "upscalingMode", "resources", "securityContext", "env"),
    *("volumeMounts", "image", "imagePullPolicy"),
}
HEAD_FIELDS = {"rayStartParams", "template", "serviceType"}
WORKER_FIELDS = {
    *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    *("idleTimeoutSeconds", "numOfHosts"),
}
"""Of what the reference of KubeRay 1.7's definitions lists, the fields that may be of use here."""


def tool(name: str, *arguments: object) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name(name), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_has_no_lint():
    tool("hadolint", DOCKER / "Dockerfile")


def test_compose_holds_to_its_schema():
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")


def test_the_image_runs_as_a_user_without_rights():
    users = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert users == [("10001", "10001")]


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_container_can_change_nothing_but_its_volumes(service):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode"} & set(service)
    assert service.get("user", "10001") not in ("0", "root")
    for volume in service["volumes"]:
        assert volume.split(":")[0] in COMPOSE["volumes"], "no folder of the host's"


def test_only_mlflow_is_published_and_on_loopback_only():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["mlflow"]
    assert all(port.startswith("127.0.0.1:") for port in published["mlflow"])
    assert COMPOSE["networks"]["cluster"]["internal"] is True
    apart = {n for n, s in SERVICES.items() if set(s["networks"]) != {"cluster"}}
    assert apart == {"mlflow"}


def test_the_address_that_is_printed_is_the_one_that_is_published():
    (port,) = SERVICES["mlflow"]["ports"]
    page = SERVICES["sweep"]["environment"]["LM_SWEEP_MLFLOW_PAGE"]
    assert port == f"127.0.0.1:{page.removeprefix('http://localhost:')}:5000"


def test_secrets_come_from_files_that_git_and_the_builder_do_not_take():
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("secrets/")
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert not [name for name in TO_BUILDER if "secret" in name or name.strip("/") == "docker"]
    for service in SERVICES.values():
        for name, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|TOKEN", name):
                assert str(value).startswith("/run/secrets/") or name.endswith("_MODE"), name


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path):
    script = tmp_path / "make-secrets"
    script.write_bytes((DOCKER / "make-secrets").read_bytes())

    def made():
        subprocess.run(["sh", str(script)], check=True)
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    first = made()
    assert set(first) == set(COMPOSE["secrets"])
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in first.values())
    assert len(set(first.values())) == len(first)
    assert made() == first
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_every_node_needs_the_token():
    for name in ("head", "worker", "sweep"):
        assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert SERVICES[name]["secrets"] == ["ray-token"]
    assert CLUSTER["authOptions"] == {"mode": "token"}


def test_both_heads_have_the_same_health_settings():
    settings = {n: str(v) for n, v in SERVICES["head"]["environment"].items() if "health" in n}
    (container,) = HEAD["spec"]["containers"]
    assert settings
    assert settings == {v["name"]: v["value"] for v in container["env"] if "health" in v["name"]}
    readme = (DOCKER / "README.md").read_text()
    assert all(f"{name.removeprefix('RAY_health_check_')}" in readme for name in settings)


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_is_valid_and_confined(pod):
    whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod}
    kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert "limits" in container["resources"]


def test_the_ray_job_has_no_field_that_kuberay_does_not_know():
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert set(JOB["spec"]) <= JOB_FIELDS
    assert set(CLUSTER) <= CLUSTER_FIELDS
    assert set(CLUSTER["autoscalerOptions"]) <= AUTOSCALER_FIELDS
    assert set(CLUSTER["headGroupSpec"]) <= HEAD_FIELDS
    assert set(WORKERS) <= WORKER_FIELDS
    for group in (CLUSTER["headGroupSpec"], WORKERS):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_workers_of_the_ray_job_come_and_go():
    assert CLUSTER["enableInTreeAutoscaling"] is True
    # A sweep is refused where no node has room for a trial: that is seen before any is asked for.
    assert 1 == WORKERS["minReplicas"] == WORKERS["replicas"] < WORKERS["maxReplicas"]
    for pod in (PODS["head"], PODS["worker"]):
        (claim,) = (v for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v)
        assert claim["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
    kubernetes_validate.validate(CLAIM, kubernetes_validate.latest_version(), strict=True)
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]


def test_pips_settings_reach_the_build_by_compose_too():
    (settings,) = re.findall("^ARG (PIP_.+)$", DOCKERFILE, re.MULTILINE)
    assert SERVICES["head"]["build"]["args"] == settings.split()


def test_versions_are_those_of_the_lock():
    assert CLUSTER["rayVersion"] == LOCK["ray"]
    (python,) = set(re.findall(r"^FROM python:(\d+\.\d+)-", DOCKERFILE, re.MULTILINE))
    assert PROJECT["requires-python"] == f">={python}"
    assert f"/lib/python{python}/" in DOCKERFILE
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    for extra in ("server", "kubernetes"):
        for requirement in PROJECT["optional-dependencies"][extra]:
            assert re.split(r"[\[<>=]", requirement)[0] in LOCK


def test_what_the_dockerfile_copies_reaches_the_builder():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert {name for line in copied for name in line.split()} == TO_BUILDER
