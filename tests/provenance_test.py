"""The commit beside a result is this project's own, or none."""

import shutil
import subprocess

from cardiojax import provenance


def git(folder, *words):
    return subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True,
                          capture_output=True, text=True).stdout.strip()


def test_a_package_inside_somebody_elses_repository_has_no_commit(tmp_path, monkeypatch):
    """Installed below another project's checkout: that project's commit made no result of ours."""
    package = tmp_path / "env" / "site-packages" / "cardiojax"
    package.mkdir(parents=True)
    shutil.copy(provenance.__file__, package / "__init__.py")
    (tmp_path / "theirs.txt").write_text("theirs")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "theirs")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert provenance.commit() == ""


def test_a_checkout_has_its_commit_and_a_mark_where_it_was_changed(tmp_path, monkeypatch):
    package = tmp_path / "cardiojax"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "ours")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert provenance.commit() == git(tmp_path, "rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed = True\n")
    assert provenance.commit().endswith("+")
