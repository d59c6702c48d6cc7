"""What must stay equal in a run: the fingerprint of all settings that change a label, and the flags that shape its output."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.config import SegmentConfig
from pipeline.errors import Incomplete, NewerFormat, RunMismatch
from pipeline.model.engine import Prepared

SETTINGS_FORMAT = 2  # format of the settings in the plan, and of run.json; without a format, it is 1
LABELS_VERSION = 2  # raise this number by hand if new code makes other labels
_BEFORE: dict[str, dict[str, Any]] = {  # newer settings, with the values that older versions had without them
    "labels": {"fast_decode": False},
    "shape": {},
}


def settings(config: SegmentConfig, network: Prepared) -> dict[str, Any]:
    """The settings that are fixed for an OUT: `format`, `labels`, `fingerprint` (of all `labels`), `shape`."""
    labels = {
        "weights_sha256": network.weights_sha256,
        "model": network.model,
        "engine": engine_release(network.engine),
        "precision": network.precision,
        "short_side": network.preset.short_side,
        "mean": list(network.preset.mean),
        "std": list(network.preset.std),
        "min_confidence": config.min_confidence,
        "fast_decode": config.fast_decode,
        "classes": list(network.classes),
        "labels_version": LABELS_VERSION,
    }
    return {"format": SETTINGS_FORMAT, "fingerprint": fingerprint(labels), "labels": labels, "shape": config.shape()}


def check_worker(expected_engine: str, expected_labels_version: int) -> None:
    """Raise `Incomplete` unless this process has the engine's release and the labels' version of the run.

    expected_engine: `engine_release` of the process that made the plan.
    """
    mine = engine_release(expected_engine.split(maxsplit=1)[0])
    if (mine, LABELS_VERSION) != (expected_engine, expected_labels_version):
        raise Incomplete(
            f"it has {mine} and labels version {LABELS_VERSION}, the run is of {expected_engine} and labels version "
            f"{expected_labels_version}: install the same versions on every node"
        )


def engine_release(engine: str) -> str:
    """The engine with its major and minor version, such as `openvino 2026.4`."""
    from importlib.metadata import version

    return f"{engine} {'.'.join(version(engine).split('.')[:2])}"


def fingerprint(labels: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of all settings that change a label."""
    return hashlib.sha256(json.dumps(labels, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def require_known_format(values: Mapping[str, Any], what: str) -> None:
    """Raise `NewerFormat` unless this version knows the format of a plan's settings or of a `run.json`."""
    found = values.get("format", 1)
    if not isinstance(found, int) or found > SETTINGS_FORMAT:
        raise NewerFormat(what, found, SETTINGS_FORMAT)


def check_same(planned: dict[str, Any], mine: dict[str, Any], out: str) -> None:
    """Raise `RunMismatch`, which names every difference, unless the output was begun with these settings.

    If an older version did not know a setting, it counts with the value that was fixed then.
    """
    differences = []
    for group in ("labels", "shape"):
        before, now = _BEFORE[group] | planned.get(group, {}), _BEFORE[group] | mine.get(group, {})
        differences += [
            f"{name} {_short(before.get(name))} there, {_short(now.get(name))} here"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
    if differences:
        raise RunMismatch(f"{out} was begun with other settings ({'; '.join(differences)}): use them, or another --output")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
