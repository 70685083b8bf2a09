"""The docs: their code runs, the keys and files that they name exist, and they build without warnings."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers.pages import DOCS, PAGES, ROOT, blocks, follow
from pydantic import BaseModel

from jepa_ray.config import METRICS, SweepConfig, TrainConfig, load_train_config, reference
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.diagnosis import Condition
from jepa_ray.errors import ConfigError
from jepa_ray.train.checkpoint import best_model, to_bytes
from jepa_ray.train.loop import Trainer

NAMES = [page.stem for page in PAGES]


@pytest.fixture(scope="module")
def from_code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("from_code", DOCS / "from_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------ code in the pages


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_and_snippet_is_run_or_gives_a_reason(page: Path) -> None:
    for block in blocks(page):
        if block.language in ("sh", "python"):
            assert re.match(r"(run( with model| with: .+)?|not run: .+)$", block.mark), (page.name, block)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem not in ("tutorial", "api")], ids=lambda page: page.stem
)
def test_code_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    expected = sum(block.mark.startswith("run") for block in blocks(page))
    assert follow(page, tmp_path) == expected


def test_library_snippets_run_with_a_trained_model(
    train_config: TrainConfig, dataset: TrajectoryDataset, tmp_path: Path
) -> None:
    trainer = Trainer(train_config, dataset)
    trainer.run_epoch()
    (tmp_path / "best_jepa_model.pt").write_bytes(to_bytes(best_model(trainer.checkpoint())))
    snippets = [block.code for block in blocks(DOCS / "api.md") if block.mark == "run with model"]
    assert len(snippets) == 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(snippets)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------ names of keys, files, messages


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_config_key_that_a_page_names_exists(page: Path) -> None:
    known = {key.name for key in reference.find(None)} | {"evaluation.planning.preset"}
    sections = {name.partition(".")[0] for name in known}
    for named in re.findall(r"`((?:base\.)?[a-z_]+\.[a-z_.]*[a-z_])(?=[:`])", prose(page)):
        key = named.removeprefix("base.")
        if key.partition(".")[0] in sections and not re.search(r"\.(py|yaml|csv|pt|db|md|log|h5|png)$", key):
            assert key in known, (page.name, named)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"\b(?:sweeps|configs|benchmarks|docker)/\w+\.(?:yaml|py)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_message_in_troubleshooting_is_one_of_the_code() -> None:
    listed = (DOCS / "troubleshooting.md").read_text().partition("## Frequent messages")[2].partition("\n## ")[0]
    messages = re.findall(r"^`(.+)`\n:", listed, re.MULTILINE)
    assert len(messages) >= 15
    code = " ".join(path.read_text() for path in (ROOT / "jepa_ray").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", code)  # a message may span two lines
    said = re.sub(r"\{[^{}]*\}", "…", said)
    for message in messages:
        for part in (part.strip(" ,:") for part in message.split("…")):
            assert part in said, message


# ------------------------------------------------------------------------------------- generated parts


def test_every_key_is_described() -> None:
    """By its field, or a section by its model."""
    keys = [*reference.train_keys(), *reference.sweep_keys()]
    assert len(keys) > 100
    assert [key.name for key in keys if not key.description] == []
    assert [key.name for key in keys if not key.kind] == []


def test_a_key_without_a_description_is_found() -> None:
    class Sloppy(BaseModel):
        model: TrainConfig
        forgotten: int = 3

    described = {key.name: key.description for key in reference._keys(Sloppy)}
    assert described["forgotten"] == ""
    assert described["model"] != ""


def test_the_reference_knows_kinds_ranges_and_defaults() -> None:
    facts = {key.name: key.constraints for key in reference.find(None)}
    assert facts["training.ema_decay"] == "number, ≥ 0 and < 1, default 0.995"
    assert facts["model.encoder_type"] == "one of vit, cnn, mlp, default vit"
    assert facts["data.resize"] == "list of 2 whole numbers or null, ≥ 1 and ≤ 4096, default null"
    assert facts["model.cnn.channels"] == "list of whole numbers, each ≥ 1, default [32, 64, 128]"
    assert facts["resources.max_concurrent"] == "whole number or auto, default auto"
    assert facts["space.KEY.low"] == "number, must be given"
    assert facts["search.seed"] == "whole number, ≥ 0 and < 2147483648, default 0"
    assert facts["objective.mode"] == "one of min, max, default max"


def test_no_key_of_the_reference_shows_a_pattern() -> None:
    """Texts with a rule are described by their `Matching` type, so nothing else can be shown."""
    limits = {key.name: key.constraints for key in reference.find(None)}
    shown = "".join(limits.values())
    assert "matches" not in shown
    assert "^" not in shown
    assert "[A-Z" not in shown
    name = "letters, digits, _, - and dots, without a dot or - at the start and without a dot at the end"
    assert limits["name"] == f"text, {name} and at most 100 characters, must be given"
    assert "a URI, such as s3://bucket/data.h5" in limits["data.path"]
    assert "one line without control characters" in limits["tracking.experiment"]
    assert "without a dot at the end" in limits["tracking.registered_model"]


def test_no_schema_holds_a_pattern_that_the_reference_would_have_to_explain() -> None:
    for model in (TrainConfig, SweepConfig):
        assert '"pattern"' not in json.dumps(model.model_json_schema())


def test_an_error_shows_the_rule_of_a_text_and_not_its_pattern(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("data: {builtin: two_rooms}\nexperiment: {name: ../up}")
    with pytest.raises(ConfigError) as caught:
        load_train_config(tmp_path / "train.yaml")
    assert "experiment.name is '../up', but must be letters, digits, _, - and dots, without a dot" in str(caught.value)


def test_the_config_page_has_every_key_once(from_code: ModuleType) -> None:
    for page, keys in (("config", reference.train_keys()), ("sweep", reference.sweep_keys())):
        text = from_code.filled((DOCS / f"{page}.md").read_text())
        for key in keys:
            headed = re.findall(rf"^(?:#+ `{re.escape(key.name)}`|\[`{re.escape(key.name)}`\]\{{#)", text, re.MULTILINE)
            assert len(headed) == 1, (page, key.name, headed)


def test_every_metric_is_explained(from_code: ModuleType) -> None:
    assert all(f"[`{name}`]" in from_code.metrics() for name in METRICS)


def test_every_condition_is_shown_with_the_message_of_the_diagnosis(from_code: ModuleType) -> None:
    """`conditions` itself asserts that each example is diagnosed as its condition."""
    assert set(from_code.CONDITIONS) == set(Condition)
    shown = from_code.conditions()
    assert all(f"### {condition.capitalize()}" in shown for condition in Condition)
    assert "--set training.loss.inverse_dynamics=1.0" in shown


# ------------------------------------------------------------------------------------------------ pages


def test_the_docs_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "config.html").read_text()
    assert 'id="training-ema-decay"' in html
    assert "from code:" not in html
    assert "{#" not in html
    for page in tmp_path.glob("*.html"):
        assert "<!-- run" not in page.read_text()
        assert not re.search(r'(?:src|href)="https?://[^"]+\.(?:js|css|woff2?)"', page.read_text()), page.name


# -------------------------------------------------------------------------------------- on the command line


def test_config_command_explains_a_key_and_suggests_for_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    reference.config("base.training.ema_decay")
    assert "number, ≥ 0 and < 1, default 0.995" in capsys.readouterr().out
    reference.config("training.loss")
    assert "training.loss.sigreg\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"did you mean search\.num_trials"):
        reference.config("serach.num_trials")
