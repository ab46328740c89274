"""Plug-ins: where modules are found and where never, and what is said of one that cannot be imported."""

import subprocess
import sys

import pytest

from frcnn_jax.plugins import load_plugins

LOAD = "import sys; from frcnn_jax.plugins import load_plugins; load_plugins(sys.argv[2:], sys.argv[1])"


def load(workdir, *names, cwd, path=()):
    """The last line on stderr of a process that loads the plug-ins; empty if it could."""
    code = f"import sys; sys.path += {[str(p) for p in path]!r}; sys.path.remove(''); {LOAD}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(workdir), *names], cwd=cwd, capture_output=True, text=True, timeout=200
    )
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stdout, (done.stderr.strip().splitlines() or [""])[-1]


def write(path, text="print(__name__)\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_current_folder_is_searched_last(tmp_path):
    for folder in ("installed", "here"):
        write(tmp_path / folder / "first_plugin.py", f"print({folder!r})\n")
    write(tmp_path / "here/second_plugin.py", "import sibling\n")
    write(tmp_path / "here/sibling.py")
    out, error = load(
        tmp_path / "run", "first_plugin", "second_plugin", cwd=tmp_path / "here", path=[tmp_path / "installed"]
    )
    assert (out, error) == ("installed\nsibling\n", "")


def test_modules_in_packages_and_twice(tmp_path):
    write(tmp_path / "package/__init__.py")
    write(tmp_path / "package/inner.py")
    out, _ = load(tmp_path / "run", "package.inner", "package.inner", "package", cwd=tmp_path)
    assert out == "package\npackage.inner\n"


@pytest.mark.parametrize("name", ["no_such_plugin", "plugin.inner", "no_such_plugin.inner", "json.no_such_plugin"])
def test_a_missing_module_is_named_with_what_to_do(tmp_path, name):
    write(tmp_path / "plugin.py", "")
    _, error = load(tmp_path / "run", name, cwd=tmp_path)
    assert error == (
        f"ModuleNotFoundError: plugins: no module {name}: put its folder on PYTHONPATH, install it with pip, or start "
        "from its folder"
    )


def test_a_module_that_imports_a_missing_one_is_named_too(tmp_path):
    write(tmp_path / "plugin.py", "import no_such_module\n")
    _, error = load(tmp_path / "run", "plugin", cwd=tmp_path)
    assert error == "ImportError: plugins: plugin cannot be imported: No module named 'no_such_module'"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n1 / 0\n", "ZeroDivisionError: division by zero ({path}, line 2)"),
        ("{}['a key']\n", "KeyError: 'a key' ({path}, line 1)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 ({path}, line 2)"),
        ("raise SystemExit\n", "SystemExit ({path}, line 1)"),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines ({path}, line 1)"),
        ("x = (\n", "SyntaxError: '(' was never closed ({file}, line 1)"),
    ],
)
@pytest.mark.parametrize("name", ["plugin", "plugin.inner"])
def test_whatever_a_module_raises_is_one_line(tmp_path, name, text, reason):
    path = tmp_path / ("plugin.py" if name == "plugin" else "plugin/inner.py")
    write(path, text)
    _, error = load(tmp_path / "run", name, cwd=tmp_path)
    assert error == f"ImportError: plugins: {name} cannot be imported: {reason.format(path=path, file=path.name)}"


def test_an_interruption_is_not_a_fault_of_the_module(tmp_path):
    write(tmp_path / "plugin.py", "raise KeyboardInterrupt\n")
    assert load(tmp_path / "run", "plugin", cwd=tmp_path)[1] == "KeyboardInterrupt"


@pytest.mark.parametrize("target", ["run/plugin.py", "run/code/plugin.py", "run/plugin/__init__.py"])
def test_nothing_is_imported_from_the_workdir(tmp_path, target):
    write(tmp_path / target)
    folder = tmp_path / "run/code" if "code" in target else tmp_path / "run"
    out, error = load(tmp_path / "run", "plugin", cwd=tmp_path, path=[folder])
    assert out == ""
    assert error == f"ImportError: plugins: {tmp_path / target} lies in the workdir {tmp_path}/run, from which " + (
        "nothing is imported"
    )


def test_nor_by_a_package_without_init_a_link_or_from_within(tmp_path):
    write(tmp_path / "run/package/plugin.py")
    (tmp_path / "linked").symlink_to(tmp_path / "run/package")
    for name, cwd, path in (
        ("package.plugin", tmp_path, [tmp_path / "run"]),
        ("linked.plugin", tmp_path, []),
        ("run.package.plugin", tmp_path, []),
    ):
        out, error = load(tmp_path / "run", name, cwd=cwd, path=path)
        assert out == ""
        assert "lies in the workdir" in error
    out, error = load(".", "package.plugin", cwd=tmp_path / "run")
    assert out == ""
    assert "plugins: no module package.plugin" in error


def test_a_name_that_is_not_a_modules_is_refused():
    with pytest.raises(ValueError, match=r"plugins: 'trunks\.py/' is not the name of a module"):
        load_plugins(["trunks.py/"])
    load_plugins([])
