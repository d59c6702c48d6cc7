"""The RayJob against KubeRay's own schema, and against what makes it finish in the morning."""

import copy
import importlib.metadata
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

# A YAML tree whose shape the CRD defines; naming it in types would repeat the CRD.
Tree = dict[str, Any]

REPO = Path(__file__).resolve().parents[2]
RAYJOB = REPO / "infra" / "kuberay" / "rayjob.yaml"
README = REPO / "infra" / "README.md"
CRD = REPO.parent / "shared" / "kuberay-crds" / "ray.io_rayjobs.yaml"

# The flags of `segment` as the contract lists them.
SEGMENT_FLAGS = frozenset(
    {
        "--input",
        "--output",
        "--model",
        "--weights",
        "--classes",
        "--short-side",
        "--engine",
        "--precision",
        "--workers",
        "--part-images",
        "--min-confidence",
        "--limit",
        "--failure-budget",
        "--allow-broken-shards",
        "--max-pixels",
        "--max-source-pixels",
        "--image-timeout-s",
        "--input-format",
        "--image-column",
        "--image-ext",
        "--id-column",
        "--confidence-map",
        "--redo",
        "--relabel-changed",
        "--dry-run",
        "--config",
        "--json",
        "--debug",
        "--usd-per-core-hour",
    }
)


def documents() -> list[Tree]:
    return list(yaml.safe_load_all(RAYJOB.read_text()))


@pytest.fixture
def rayjob() -> Tree:
    """Return the RayJob alone, a fresh copy a test."""
    [job] = [d for d in documents() if d["kind"] == "RayJob"]
    return job


@pytest.fixture
def cluster(rayjob: Tree) -> Tree:
    spec: Tree = rayjob["spec"]["rayClusterSpec"]
    return spec


def group(cluster: Tree, name: str) -> Tree:
    groups: list[Tree] = cluster["workerGroupSpecs"]
    [found] = [g for g in groups if g["groupName"] == name]
    return found


def pod_templates() -> dict[str, Tree]:
    """Every pod that the RayJob asks for, by a readable name."""
    [job] = [d for d in documents() if d["kind"] == "RayJob"]
    cluster = job["spec"]["rayClusterSpec"]
    workers = {g["groupName"]: g["template"]["spec"] for g in cluster["workerGroupSpecs"]}
    return {
        "head": cluster["headGroupSpec"]["template"]["spec"],
        "submitter": job["spec"]["submitterPodTemplate"]["spec"],
        **workers,
    }


def containers() -> Iterator[tuple[str, Tree]]:
    for name, pod in pod_templates().items():
        for container in pod.get("initContainers", []) + pod["containers"]:
            yield f"{name}/{container['name']}", container
    # KubeRay builds the autoscaler's container and takes these fields over.
    [job] = [d for d in documents() if d["kind"] == "RayJob"]
    yield "head/autoscaler", job["spec"]["rayClusterSpec"]["autoscalerOptions"]


# --- the schema ---


def closed(schema: Tree) -> Tree:
    """Refuse unknown fields; a raw CRD schema lets them pass, and the API server drops them."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: closed(field) for name, field in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            result[keyword] = closed(schema[keyword])
    return result


@pytest.fixture(scope="module")
def crd_schema() -> Tree:
    if not CRD.exists():
        pytest.skip("KubeRay's CRDs are not beside this checkout (../shared/kuberay-crds)")
    # 1.4 MB: 0.3 s in C, 10 s in Python. Either loader is a safe one.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load(CRD.read_text(), Loader=loader)  # noqa: S506
    [v1] = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema: Tree = v1["schema"]["openAPIV3Schema"]
    return schema


def complaints(schema: Tree, instance: Tree) -> list[str]:
    # OpenAPI 3.0 schemas follow draft 4.
    return [f"{e.json_path}: {e.message}" for e in jsonschema.Draft4Validator(schema).iter_errors(instance)]


def test_rayjob_is_valid_with_unknown_fields_refused(crd_schema: Tree, rayjob: Tree) -> None:
    assert complaints(closed(crd_schema), rayjob) == []


WORKER = ("spec", "rayClusterSpec", "workerGroupSpecs", 1)


@pytest.mark.parametrize(
    ("path", "typo"),
    [
        (("spec",), "activeDeadlineSecond"),
        (("spec", "rayClusterSpec"), "enableInTreeAutoscalling"),
        (("spec", "rayClusterSpec", "authOptions"), "modes"),
        (("spec", "rayClusterSpec", "autoscalerOptions"), "idleTimeoutSecond"),
        (WORKER, "maxReplica"),
        ((*WORKER, "template", "spec"), "nodeSelectors"),
        ((*WORKER, "template", "spec", "tolerations", 0), "effects"),
        ((*WORKER, "template", "spec", "containers", 0, "securityContext"), "privilegeEscalation"),
        ((*WORKER, "template", "spec", "containers", 0, "env", 0), "val"),
        (("spec", "submitterPodTemplate", "spec", "securityContext", "seccompProfile"), "kind"),
    ],
)
def test_a_typo_is_refused(crd_schema: Tree, rayjob: Tree, path: tuple[str | int, ...], typo: str) -> None:
    wrong = copy.deepcopy(rayjob)
    place: Any = wrong
    for step in path:
        place = place[step]
    place[typo] = "x"
    assert any(typo in line for line in complaints(closed(crd_schema), wrong))
    assert complaints(crd_schema, wrong) == [], "closing the schema would not be needed"


@pytest.mark.parametrize("mode", ["tokens", "${AUTH_MODE}", None])
def test_auth_mode_is_an_enum(crd_schema: Tree, rayjob: Tree, mode: str | None) -> None:
    rayjob["spec"]["rayClusterSpec"]["authOptions"]["mode"] = mode
    assert complaints(crd_schema, rayjob) != []


# --- what the schema cannot say ---


def test_names() -> None:
    # utils/constant.go: MaxRayJobNameLength = 47; IsDNS1035Label.
    for document in documents():
        name = document["metadata"]["name"]
        assert len(name) <= 47
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name), name


def test_the_cluster_ends(rayjob: Tree) -> None:
    spec = rayjob["spec"]
    assert spec["submissionMode"] == "K8sJobMode"  # no enum in the CRD
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
    assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["backoffLimit"] in {1, 2}
    assert "suspend" not in spec


def entrypoint(rayjob: Tree) -> list[str]:
    return shlex.split(rayjob["spec"]["entrypoint"])


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_entrypoint_uses_flags_that_exist(rayjob: Tree) -> None:
    words = entrypoint(rayjob)
    assert words[:3] == ["python", "-m", "jobs.segment"]
    flags = {w.partition("=")[0] for w in words if w.startswith("--")}
    assert flags >= {"--input", "--output", "--config"}
    assert flags <= SEGMENT_FLAGS
    assert value_of(words, "--input").startswith("s3://")
    assert value_of(words, "--output").startswith("s3://")


def test_entrypoint_survives_both_shells(rayjob: Tree) -> None:
    line = rayjob["spec"]["entrypoint"]
    assert "\n" not in line
    assert not set(line) & set("\"'\\$`*?;&|<>(){}~#!"), "two shells would read this differently"


def test_config_of_the_entrypoint_is_in_the_image(rayjob: Tree) -> None:
    config = Path(value_of(entrypoint(rayjob), "--config"))
    dockerfile = (REPO / "infra" / "docker" / "Dockerfile").read_text()
    assert f"COPY jobs/configs {config.parent}\n" in dockerfile
    assert (REPO / "jobs" / "configs" / config.name).is_file()


def test_workers_fill_the_spot_group(rayjob: Tree, cluster: Tree) -> None:
    spot = group(cluster, "spot")
    cpus = int(spot["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert int(value_of(entrypoint(rayjob), "--workers")) == spot["maxReplicas"] * cpus


@pytest.fixture
def node_types(cluster: Tree) -> dict[str, Tree]:
    """Return what Ray's own autoscaler reads from the cluster."""
    pytest.importorskip("ray", reason="ray is not installed")
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    resource = {"metadata": {"name": "test", "namespace": "test"}, "spec": cluster}
    types: dict[str, Tree] = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    return types


def test_driver_fits_the_on_demand_group_and_no_other(rayjob: Tree, node_types: dict[str, Tree]) -> None:
    wanted = {"CPU": rayjob["spec"]["entrypointNumCpus"], **json.loads(rayjob["spec"]["entrypointResources"])}
    fits = {
        name
        for name, node in node_types.items()
        if all(node["resources"].get(resource, 0) >= amount for resource, amount in wanted.items())
    }
    assert fits == {"driver"}
    assert node_types["driver"]["min_workers"] == 1, "the driver would wait for the autoscaler"
    # With a CPU to spare the group would take workers too, beside the driver's memory.
    assert node_types["driver"]["resources"]["CPU"] == wanted["CPU"]


def test_head_takes_no_work(cluster: Tree, node_types: dict[str, Tree]) -> None:
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert node_types["headgroup"]["resources"]["CPU"] == 0


def test_custom_resources_survive_the_shell_of_ray_start(cluster: Tree) -> None:
    # KubeRay writes `ray start --resources=<value>` into a bash line.
    [word] = shlex.split("--resources=" + group(cluster, "driver")["rayStartParams"]["resources"])
    assert json.loads(word.removeprefix("--resources=")) == {"driver": 1}


def test_start_parameters_are_strings(cluster: Tree) -> None:
    for start in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in start["rayStartParams"].values())


def test_only_the_workers_are_spot(cluster: Tree) -> None:
    pods = pod_templates()
    capacity = {name: pod["nodeSelector"]["eks.amazonaws.com/capacityType"] for name, pod in pods.items()}
    assert capacity == {"head": "ON_DEMAND", "submitter": "ON_DEMAND", "driver": "ON_DEMAND", "spot": "SPOT"}
    assert {name for name, pod in pods.items() if pod.get("tolerations")} == {"spot"}
    # KubeRay submits when minReplicas are up: no spot capacity must not mean no start.
    assert group(cluster, "spot")["minReplicas"] == 0
    assert group(cluster, "spot")["maxReplicas"] > 0
    assert cluster["enableInTreeAutoscaling"] is True
    for template in (cluster["headGroupSpec"]["template"], group(cluster, "driver")["template"]):
        assert template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_autoscaler_v2_wants_pods_that_never_restart(cluster: Tree) -> None:
    assert cluster["autoscalerOptions"]["version"] == "v2"
    for name in ("head", "driver", "spot"):
        assert pod_templates()[name].get("restartPolicy", "Never") == "Never"


def test_token_auth_is_literal(cluster: Tree) -> None:
    assert cluster["authOptions"] == {"mode": "token"}


def test_ray_version_is_the_installed_one(cluster: Tree) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    assert cluster["rayVersion"] == importlib.metadata.version("ray")


def test_probes_need_no_wget(cluster: Tree) -> None:
    # common/pod.go supportsUnifiedHealthCheck: HTTP probes from Ray 2.53; before, wget inside the image.
    major, minor, _ = map(int, cluster["rayVersion"].split("."))
    assert (major, minor) >= (2, 53)


def test_no_gcs_fault_tolerance(rayjob: Tree, cluster: Tree) -> None:
    assert "gcsFaultToleranceOptions" not in cluster
    assert "ray.io/ft-enabled" not in rayjob["metadata"].get("annotations", {})


def test_the_driver_has_time_to_stop(rayjob: Tree) -> None:
    environment = yaml.safe_load(rayjob["spec"]["runtimeEnvYAML"])["env_vars"]
    wait_s = environment["RAY_JOB_STOP_WAIT_TIME_S"]
    assert isinstance(wait_s, str), "Ray refuses env_vars that are not strings"
    assert 3 < int(wait_s) < pod_templates()["driver"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", ["head", "submitter", "driver", "spot"])
def test_pods_meet_the_restricted_standard(name: str) -> None:
    pod = pod_templates()[name]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["fsGroup"] > 0, "the IRSA token could not be read"
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(set(volume) - {"name"} <= allowed for volume in pod.get("volumes", []))


@pytest.mark.parametrize("container", [pytest.param(c, id=name) for name, c in containers()])
def test_containers_meet_the_restricted_standard(container: Tree) -> None:
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert not security.get("privileged")
    assert not {"runAsUser", "runAsNonRoot", "seccompProfile"} & security.keys(), "the pod says it"
    assert not any("hostPort" in port for port in container.get("ports", []))


@pytest.mark.parametrize("container", [pytest.param(c, id=name) for name, c in containers()])
def test_requests_are_limits(container: Tree) -> None:
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"].keys() >= {"cpu", "memory"}


def test_one_image_with_a_tag() -> None:
    images = {container["image"] for name, container in containers() if name != "head/autoscaler"}
    [image] = images
    assert re.fullmatch(r"(.*/)?maskfleet(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})", image), image


def test_s3_by_role_and_no_secret_in_the_file() -> None:
    [account] = [d for d in documents() if d["kind"] == "ServiceAccount"]
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    assert account["automountServiceAccountToken"] is False
    pods = pod_templates()
    for name in ("driver", "spot"):
        assert pods[name]["serviceAccountName"] == account["metadata"]["name"]
        assert pods[name]["automountServiceAccountToken"] is False
    # KubeRay binds the autoscaler's rights to the head's account: not the one that opens images.
    assert "serviceAccountName" not in pods["head"]
    for _, container in containers():
        for variable in container.get("env", []):
            assert not re.search("KEY|SECRET|TOKEN|PASSWORD", variable["name"]) or "valueFrom" in variable
    assert not re.search(r"\bA(KI|SI)A[0-9A-Z]{16}\b", RAYJOB.read_text())


# --- the README beside it ---


def readme_commands() -> list[str]:
    """Return the command lines of its code blocks, continued lines joined."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_readme_uses_flags_that_exist() -> None:
    commands = [c for c in readme_commands() if "jobs.segment" in c or "maskfleet segment" in c]
    assert commands
    for command in commands:
        _, _, arguments = command.partition("segment")
        flags = {w.partition("=")[0] for w in shlex.split(arguments, comments=True) if w.startswith("--")}
        assert flags <= SEGMENT_FLAGS, command


def test_readme_points_at_files_that_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", README.read_text())
    assert links
    for link in links:
        assert (README.parent / link).exists(), link
