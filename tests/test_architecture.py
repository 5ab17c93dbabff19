"""The house: imports run from higher floors to lower ones only, and names live where the design says."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import anomaly_ae
from anomaly_ae import errors
from anomaly_ae.nn.core import EXAMPLES
from anomaly_ae.storage import vocabulary

PACKAGE = Path(anomaly_ae.__file__).parent
BACKBONES = [f"nn.{name}" for name in ("backbones", "graphs", "recurrent", "temporal")]
TERMS = ("aggregated", "contamination", "divergences", "information", "penalties")
CODES = ("hierarchy", "latents", "priors", "relaxed")
NN_PARTS = [f"nn.{name}" for name in (*TERMS, *CODES, "corruptions", "likelihoods")]
FRONT_ENDS = ["Envelope", "LogMel", "Spectrogram"]
PRETRAINED = ["PretrainedClassifier", "PretrainedRegressor"]
# floors, lowest first; a file imports from lower floors only, never from its own
FLOORS = [
    ["data.written", "errors", "overlap", "version"],
    ["compiled", "numbered", "ranges", "truth"],
    ["defaults", "loops", "nn.core", "series.spectra"],
    ["arsinh", "nn.densities", "nn.layers", "nn.terms"],
    ["nn.convolutions"],
    ["nn.sequences"],
    [*BACKBONES, *NN_PARTS],
    ["nn.classes", "nn.codebooks", "nn.discrete"],
    ["nn.model"],
    ["nn.heads", "nn.stack"],
    ["nn.training"],
    ["scoring.attribution", "scoring.calibration", "scoring.kernels", "scoring.moments", "scoring.scorers"],
    ["scoring.search"],
    ["scoring.disagreement", "scoring.fusion", "scoring.neighbours", "scoring.variational", "scoring.whitening"],
    ["scoring.known", "scoring.linear", "scoring.thresholds", "series.tails", "series.windows"],
    ["series.events", "series.eyes", "series.views"],
    ["data.cells", "data.contract", "monitoring.dependence", "monitoring.martingale", "promise"],
    ["monitoring.profile"],
    ["data.drafts", "monitoring.drift"],
    ["data.formats", "data.preprocessing", "data.rejects", "data.streams", "data.dialect"],
    ["data.context", "data.records", "monitoring.history"],
    ["data.sifting"],
    ["data.sources"],
    ["data.coding"],
    ["data.tables", "storage"],
    ["columns", "folds", "keeping", "series.channels", "series.timeline"],
    ["explanation", "representation", "series.fold", "series.rows"],
    ["incremental"],
    ["estimator", "series.calibrated", "series.learning"],
    ["detectors", "series.edges", "series.stream"],
    ["series.verdicts", "transfer"],
    ["series.detector"],
    ["composites"],
    ["evaluation.intervals", "loading"],
    ["ops.arguments", "ops.lines", "ops.series_table", "ops.series_times", "ops.verdicts"],
    ["adapters", "config", "evaluation.detection", "evaluation.representation", "evaluation.surface"],
    ["evaluation.events", "evaluation.robustness"],
    ["mlflow.outbox", "ops.series_check"],
    ["mlflow.store"],
    ["mlflow.epochs", "mlflow.registry"],
    ["ops.batches", "ops.series_reading"],
    ["mlflow.flavor"],
    ["mlflow.runs"],
    [
        "ops.check",
        "ops.describe",
        "ops.labels",
        "ops.journal",
        "ops.pictures",
        "ops.pieces",
        "ops.series_picture",
        "ops.tracking",
    ],
    ["ops.evaluation_pictures", "ops.evaluation_summary", "ops.report", "ops.sinks", "ops.tally"],
    ["ops.evaluation_page"],
    ["ops.assets", "ops.fitting", "ops.job"],
    ["ops.scoring", "ops.series_summary"],
    ["ops.series"],
    ["ops.evaluating", "ops.monitoring", "ops.refitting", "ops.series_plot", "ops.watch"],
    ["cli.app", "cli.ending"],
    ["cli.evaluating", "cli.jobs", "cli.models", "cli.monitoring", "cli.series"],
    ["__main__"],
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
FILES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path, only_ours=True):
    """Names of imported modules, relative to the package (or of all others)."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [node.module]
            if node.module in (
                "anomaly_ae",
                "anomaly_ae.ops",
                "anomaly_ae.nn",
                "anomaly_ae.scoring",
                "anomaly_ae.data",
                "anomaly_ae.series",
                "anomaly_ae.mlflow",
                "anomaly_ae.monitoring",
                "anomaly_ae.cli",
            ):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("anomaly_ae.") == only_ours:
                yield name.removeprefix("anomaly_ae.")


def test_every_file_has_a_floor():
    assert sorted(name_of(path) for path in FILES) == sorted(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_arrow_runs_upward_or_sideways(path):
    for name in imported(path):
        assert FLOOR[name] < FLOOR[name_of(path)], f"{name_of(path)} imports {name}"


def test_the_rule_sees_a_wrong_arrow(tmp_path):
    wrong = tmp_path / "x.py"
    wrong.write_text("from anomaly_ae.ops import scoring\nimport anomaly_ae.cli\n")
    assert sorted(imported(wrong)) == ["cli", "ops.scoring"]


@pytest.mark.parametrize(
    ("module", "owners"),
    [
        ("mlflow", {"mlflow.flavor", "mlflow.registry", "mlflow.runs", "mlflow.store"}),
        (
            "typer",
            {"cli.app", "cli.ending", "cli.evaluating", "cli.jobs", "cli.models", "cli.monitoring", "cli.series"},
        ),
        ("yaml", {"config"}),
        ("pickle", set()),
        ("joblib", set()),
        ("pyod", {"adapters"}),
        (
            "matplotlib",
            {
                "ops.evaluation_pictures",
                "ops.pictures",
                "ops.pieces",
                "ops.series_picture",
                "ops.series_plot",
                "ops.tracking",
            },
        ),  # tracking: for a type alone
    ],
)
def test_heavy_and_dangerous_imports_have_one_place(module, owners):
    users = {
        name_of(path) for path in FILES if any(name.split(".")[0] == module for name in imported(path, only_ours=False))
    }
    assert users <= owners


def test_thresholds_and_calibration_do_without_torch():
    for name in ("thresholds", "calibration", "attribution"):
        heavy = {other.split(".")[0] for other in imported(PACKAGE / "scoring" / f"{name}.py", only_ours=False)}
        assert "torch" not in heavy
        assert all(
            FLOOR[ours] <= FLOOR["ranges"]
            for ours in imported(PACKAGE / "scoring" / f"{name}.py")
            if "scoring" not in ours
        )


def test_the_model_names_no_part():
    source = (PACKAGE / "nn" / "model.py").read_text()
    assert not [
        name for name in vocabulary() if name in {n.id for n in ast.walk(ast.parse(source)) if hasattr(n, "id")}
    ]


@pytest.mark.parametrize(
    "name",
    sorted(
        [
            *vocabulary(),
            *FRONT_ENDS,
            *PRETRAINED,
            "AutoencoderDetector",
            "PyODDetector",
            "SeriesDetector",
            "VAEDetector",
            "as_pyod",
        ]
    ),
)
def test_public_names_are_importable_and_documented(name):
    public = getattr(anomaly_ae, name)
    assert name in dir(anomaly_ae)
    words = inspect.getdoc(public)
    parameters = [p for p in inspect.signature(public).parameters if p != "self"]
    for section in [".. math::", "References", "Examples", *(["Parameters"] if parameters else [])]:
        assert section in words, f"{name} lacks {section}"
    for parameter in parameters:
        assert parameter in words, f"{name} does not document {parameter}"


def _sentence(node):
    """A message as it is written, with braces for what is put in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_sentence, node.values))
    return str(node.value) if isinstance(node, ast.Constant) else "{}"


ERRORS = {name for name in errors.__all__ if name != "AnomalyError"}
PASSED_ON = {"{}", "{}: {}"}  # what somebody else says


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_refusal_says_what_rule_what_was_found_and_what_to_do(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and node.args]
    said = [_sentence(call.args[0]) for call in calls if getattr(call.func, "id", None) in ERRORS]
    for text in said:
        assert text in PASSED_ON or re.fullmatch(r".+ .+, however: .+[.;})] ([A-Z].+[.})]|{}.*)", text, re.DOTALL), text


def test_warnings_have_one_place():
    assert [name_of(path) for path in FILES if "warnings.warn(" in path.read_text()] == ["errors"]


def test_files_stay_readable():
    long = {name_of(path): lines for path in FILES if (lines := len(path.read_text().splitlines())) > 420}
    assert not long


FIRST = """
import importlib, os, sys
# what is not ours takes its seconds once
import pandas, pyarrow.csv, pyarrow.parquet, safetensors.torch, scipy.stats, sklearn.neighbors, torch, typer
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_every_module_can_be_the_first_that_is_imported():
    """Each in a process of its own: a cycle shows only to who comes first."""
    names = [f"anomaly_ae.{name_of(path)}" for path in FILES]
    done = subprocess.run([sys.executable, "-c", FIRST, *names], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_whoever_lacks_a_quality_is_shown_a_part_that_has_it():
    asked = {quality for part in vocabulary().values() for quality in getattr(part, "needs", {}).values()}
    assert asked == set(EXAMPLES)
    for quality, example in EXAMPLES.items():
        assert quality in eval(example.split(", ")[0], dict(vocabulary())).offers  # noqa: S307
