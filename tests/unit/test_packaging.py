"""What ships is whole, and what is pinned is pinned to the same version in every place that names one."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lakefactor.spark import session

ROOT = Path(__file__).parents[2]
DATA_FILES = {"lakefactor/py.typed", "lakefactor/spark/log4j2.properties"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel without the network, from a copy: a build leaves folders beside its sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("lib", "schemas"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel):
    (found,) = distributions(path=[str(wheel)])
    return found


@pytest.fixture(scope="module")
def pinned():
    """Exact versions by package name; a package may have one for each range of Python versions."""
    versions = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            versions.setdefault(canonicalize_name(requirement.name), []).append(requirement.specifier)
    return versions


def test_the_wheel_holds_every_module_and_every_contract(wheel):
    modules = {path.relative_to(ROOT / "lib").as_posix() for path in (ROOT / "lib/lakefactor").rglob("*.py")}
    contracts = {f"lakefactor/schemas/{path.name}" for path in (ROOT / "schemas").glob("*.*")}
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    pages = {path.relative_to(ROOT / "lib").as_posix() for path in (ROOT / "lib/lakefactor/pages").rglob("*.[ch][st]*")}
    assert shipped == modules | contracts | pages | DATA_FILES
    assert len([name for name in shipped if name.endswith(".yaml")]) > 0


def test_contracts_are_found_where_the_package_is_a_zip(wheel, tmp_path):
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import lakefactor, lakefactor.schemas\n"
        "from lakefactor import contracts\n"
        "columns = {name: len(contracts.load(name).columns) for name in contracts.names()}\n"
        "print(json.dumps([lakefactor.__file__, lakefactor.schemas.__file__, columns]))"
    )
    answer = subprocess.run(
        [sys.executable, "-I", "-c", script, str(wheel)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    package, schemas, columns = json.loads(answer.stdout)
    assert Path(package) == wheel / "lakefactor/__init__.py"
    assert Path(schemas) == wheel / "lakefactor/schemas/__init__.py"
    assert set(columns) == {path.stem for path in (ROOT / "schemas").glob("*.yaml")}
    assert min(columns.values()) > 0


def test_the_command_is_a_function_of_the_package(metadata):
    (command,) = (entry for entry in metadata.entry_points if entry.group == "console_scripts")
    assert command.name == "lakefactor"
    assert callable(command.load())


def test_constraints_name_one_exact_version_and_no_place(pinned):
    for name, specifiers in pinned.items():
        for specifier in specifiers:
            assert re.fullmatch(r"==[^*,]+", str(specifier)), name
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_every_dependency_is_pinned_within_its_range(metadata, pinned):
    for text in metadata.requires:
        requirement = Requirement(text)
        versions = [str(specifier).removeprefix("==") for specifier in pinned[canonicalize_name(requirement.name)]]
        assert all(requirement.specifier.contains(version) for version in versions), text


def test_spark_and_delta_have_one_version_everywhere(metadata, pinned):
    required = {Requirement(text).name: str(Requirement(text).specifier) for text in metadata.requires}
    expected = {"pyspark": f"=={session.PYSPARK_VERSION}", "delta-spark": f"=={session.DELTA_VERSION}"}
    assert {name: required[name] for name in expected} == expected
    assert {name: [str(each) for each in pinned[name]] for name in expected} == {
        name: [version] for name, version in expected.items()
    }


def test_spark_settings_name_the_delta_release():
    lines = (ROOT / "conf/spark/cpu.conf").read_text().splitlines()
    settings = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert session.DELTA_PACKAGE in settings["spark.jars.packages"].split(",")
    assert session.DELTA_EXTENSION in settings["spark.sql.extensions"].split(",")
    assert settings["spark.sql.catalog.spark_catalog"] == session.DELTA_CATALOG


@pytest.mark.parametrize("path", sorted((ROOT / "conf/spark").glob("*.conf")), ids=lambda path: path.name)
def test_spark_settings_are_explained(path):
    lines = path.read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        assert not line.startswith("spark.") or before.startswith(("#", "spark.")), f"no comment above: {line}"


@pytest.mark.parametrize(("folder", "allowed"), [("jobs", "lakefactor"), ("airflow_dags", "airflow")])
def test_scripts_outside_the_package_import_one_thing(folder, allowed):
    siblings = {path.stem for path in (ROOT / folder).glob("_*.py")}
    for path in (ROOT / folder).glob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
        assert imported - sys.stdlib_module_names <= {allowed} | siblings, path.name
