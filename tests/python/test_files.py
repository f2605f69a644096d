"""The files around the code are well-formed, and those that depend on each other agree."""

import json
import pathlib
import re
import subprocess
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tracked():
    """The repository's own files, also where they are not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


FILES = tracked()
# Those in bad_files are wrong on purpose.
YAML = [path for path in FILES if path.suffix in (".yaml", ".yml") and "bad_files" not in path.parts]
DASHBOARDS = [path for path in FILES if path.parent.name == "grafana" and path.suffix == ".json"]
SHELL = [path for path in FILES if path.suffix == ".sh" or path == ROOT / ".ci/run"]
MARKDOWN = [path for path in FILES if path.suffix == ".md"]


def name(path):
    return str(path.relative_to(ROOT))


class Unique(yaml.SafeLoader):
    """YAML in which a key may stand once."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice in {keys}"
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize("path", YAML, ids=name)
def test_yaml_is_well_formed(path):
    assert yaml.load(path.read_text(), Unique) is not None


@pytest.mark.parametrize("path", MARKDOWN, ids=name)
def test_links_in_documents_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{name(path)} links to {target}"


@pytest.mark.parametrize("path", SHELL, ids=name)
def test_shell_scripts_parse(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & 0o100, "not executable"


def test_every_alert_has_a_runbook():
    rules = yaml.safe_load((ROOT / "ops/prometheus/alerts.yaml").read_text())
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/runbooks.md").read_text(), flags=re.M)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(alerts) >= 10
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"]["summary"]
        anchor = alert["annotations"]["runbook_url"].partition("docs/runbooks.md#")[2]
        assert anchor in anchors, f"{alert['alert']} has no runbook"
    # Others are for errors that people see.
    of_alerts = [heading for heading in headings if heading.startswith("Alluvium")]
    assert len(alerts) == len(of_alerts), "a runbook without an alert"


@pytest.mark.parametrize("path", DASHBOARDS, ids=name)
def test_dashboards_ask_for_the_chosen_data_source(path):
    dashboard = json.loads(path.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) and len(ids) > 8
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
            assert "alluvium_" in target["expr"]


@pytest.mark.parametrize("path", [*DASHBOARDS, ROOT / "ops/prometheus/alerts.yaml"], ids=name)
def test_only_metrics_that_the_code_has_are_asked_for(path):
    code = "".join(source.read_text() for source in FILES if source.suffix == ".rs")
    asked = set(re.findall(r"\balluvium_[a-z_]+", path.read_text()))
    unknown = {metric for metric in asked if f'"{re.sub("_(bucket|sum|count)$", "", metric)}"' not in code}
    assert asked and not unknown


def test_the_toolchain_is_the_one_that_the_manifest_asks_for():
    channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    oldest = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert channel.startswith(oldest)
    assert f"RUST_VERSION={channel}" in dockerfile
    assert channel in (ROOT / "README.md").read_text()


def test_the_readme_names_the_test_command_once():
    marked = re.findall(r"<!-- ci: test -->\n```sh\n(.+)\n```", (ROOT / "README.md").read_text())
    assert len(marked) == 1 and marked[0].startswith("cargo test")


def test_the_rules_in_the_architecture_are_held_where_it_says():
    rows = re.findall(r"^\| (P\d+) \|[^|]*\|([^|]*)\|$", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.M)
    assert [rule for rule, _ in rows] == [f"P{number}" for number in range(1, 39)]
    for rule, places in rows:
        for place in re.findall(r"`([^`]+)`", places):
            crate, _, file = place.partition("/")
            path = ROOT / "crates" / crate / "src" / file
            assert path.is_file(), f"{rule}: {place} is not there"
