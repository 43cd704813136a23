"""README and pages: links that lead somewhere, commands that their parsers take."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tyro

from benchmarks import all_speeds, speed_table
from cardiojax.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "launch").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?:|mailto:", target):
            file, _, anchor = target.partition("#")
            found = (page.parent / file) if file else page
            assert found.exists(), target
            if anchor:
                assert anchor in {slug(line) for line in found.read_text().splitlines() if line.startswith("#")}, target


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def commands(page: Path) -> list[str]:
    """Of the shell blocks, with continued lines joined; without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("cardiojax ")]


class Parsed(Exception):
    """Raised in place of running a command that its own parser has taken."""


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)],
                         ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_taken_by_their_parsers(page, monkeypatch, capsys):
    """Verb, flags and values; of a line that leaves some out (…) the flags alone."""
    def parse(*words, original=tyro.cli, **settings):
        original(*words, **settings)
        raise Parsed

    monkeypatch.setattr("tyro.cli", parse)
    for line in commands(page):
        words = shlex.split(line.replace("hospital", "mnms"))[1:]          # a dataset of the reader's own package
        if any("…" in word for word in words):
            below = words[1] if len(words) > 1 and words[0] in ("train", "bench", "port") else None
            with pytest.raises(SystemExit):
                main([words[0], *([below] if below else []), "--help"])
            said = capsys.readouterr().out
            for flag in (word for word in words if word.startswith("--")):
                assert re.search(rf"{re.escape(flag)}\b", said), (line, flag)
            continue
        for part in (words, words[words.index("--") + 1:]) if "--" in words else (words,):
            try:
                main(part)
            except Parsed:
                continue
            except SystemExit:
                pytest.fail(f"{line}\n{capsys.readouterr().err}")
            pytest.fail(f"{line}: {capsys.readouterr().err}")


def test_benchmarks_know_the_flags_that_pages_give_them():
    found = 0
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for name, words in re.findall(r"python (benchmarks/\w+\.py)((?:[ \n]+(?!python )[^`\s]+)*)", text):
            known = (ROOT / name).read_text()
            for flag in re.findall(r"(?<=\s)--[\w-]+", words):
                found += 1
                of_tyro = re.search(rf"^    {flag[2:].replace('-', '_')}: ", known, re.MULTILINE)
                assert f'"{flag}"' in known or of_tyro, (page.name, name, flag)
    assert found > 20


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_a_cpus_figures_are_the_files():
    assert all_speeds.PAGE.read_text() == all_speeds.page(), "run: python benchmarks/all_speeds.py"
    page = (ROOT / "docs" / "speed.md").read_text()
    assert "\n".join(speed_table.lines()) in page
    for name, row in json.loads((ROOT / "benchmarks" / "results" / "starts.json").read_text())["rows"].items():
        assert re.search(rf"\| `{name}`.*\| {row['cold_s']:.1f} s \| {row['warm_s']:.1f} s \|", page), name


def test_a_gpus_figures_are_the_files():
    measured, before = (json.loads((ROOT / "benchmarks" / "results" / f"gpu_h200{name}.json").read_text())
                        for name in ("", "_lookup"))
    ours, theirs, page = measured["ours"], measured["torch"], (ROOT / "docs" / "speed.md").read_text()
    sfera = next(row["ms"] for row in before["rows"] if row["what"].startswith("SFERA step"))
    for name, ms, digits in (("gaugan step", ours["gaugan step"]["ms"], 1), ("images", ours["images"]["ms"], 2),
                             ("sfera step", sfera, 1)):
        peer = theirs[name]["ms"]
        row = next(line for line in page.splitlines() if f"{ms:.{digits}f} ms" in line)
        assert f"{peer:.{digits}f} ms" in row, name
        assert f"{peer / ms:.2f}" in row, name
    assert f"{ours['gaugan steps with input']['ms'] / 10:.1f} ms" in page
    ratios = [measured["ratio_to_peer"][name] for name in ("gaugan step", "images")]
    assert "trains {} and paints {} times".format(*ratios) in (ROOT / "README.md").read_text().replace("\n", " ")


def test_what_a_gpu_would_have_to_do_is_the_files():
    def of(name):
        return json.loads((ROOT / "benchmarks" / "results" / f"kernels_{name}.json").read_text())

    page = (ROOT / "docs" / "speed.md").read_text().replace("\n", " ")
    table, dense, sfera, contours = map(of, ("gaugan_table", "gaugan_dense", "sfera_table", "contours"))
    assert (
        f"a step does {table['tflop']:.1f} TFLOP in place of {dense['tflop']:.1f} and moves {table['gigabytes']:.0f} "
        f"GB in place of {dense['gigabytes']:.0f}; SFERA's does {sfera['tflop']:.1f} TFLOP in {sfera['kernels']} "
        f"kernels that move {sfera['gigabytes']:.0f} GB, contours' (`large`) {contours['tflop']:.1f} in "
        f"{contours['kernels']} that move {contours['gigabytes']:.0f} GB") in page


def test_where_a_gpus_latency_goes_is_the_files():
    rows = json.loads((ROOT / "benchmarks" / "results" / "gpu_h200_latency.json").read_text())["rows"]
    page = (ROOT / "docs" / "speed.md").read_text().replace("\n", " ")
    ms = {name: row["float32"]["ms"] for name, row in rows.items()}
    whole, buffered = ms["as it is"], "float32, convolutions in the command buffer"
    assert f"of {whole:.2f} ms some 0.25 went into fetching six arrays" in page
    assert whole - ms["one array back"] == pytest.approx(0.25, abs=0.05)
    assert "0.35 into handing over each vector" in page
    assert ms["one array back"] - ms["weights closed over"] == pytest.approx(0.35, abs=0.05)
    assert "some 0.2 into launching convolutions" in page
    assert whole - rows["as it is"][buffered]["ms"] == pytest.approx(0.2, abs=0.05)
    assert f"{rows['weights closed over, batch there'][buffered]['ms']:.2f} ms were reached" in page
    now = rows["since: one array back, vectors as one, one command buffer"]["float32"]
    assert f"{now['ms']:.2f} ms (fastest {now['min_ms']:.2f})" in page


def test_how_long_a_gpus_start_takes_is_the_files():
    found = json.loads((ROOT / "benchmarks" / "results" / "gpu_h200_starts.json").read_text())
    page = (ROOT / "docs" / "speed.md").read_text().replace("\n", " ")
    cold, warm = found["start_to_first_steps_s"].values()
    compiler = found["seconds_of_it"]["cold"]["XLA, of the step"]
    assert f"{cold:.0f} s where nothing is compiled yet, {compiler:.0f} of them XLA's, and {warm:.0f} s" in page
    assert f"trainings takes {found['seconds_of_it']['warm']['imports']} s" in page


@pytest.mark.parametrize(("task", "name"), [("gaugan", "GauGAN"), ("sfera", "SFERA")])
def test_what_gpus_send_each_other_is_the_files(task, name):
    found = json.loads((ROOT / "benchmarks" / "results" / f"communication_{task}.json").read_text())
    (sent,), links = found["collectives"].values(), found["links"].values()
    row = next(line for line in (ROOT / "docs" / "many_gpus.md").read_text().splitlines()
               if line.startswith(f"| {name} |"))
    assert f"| {found['step_ms']} ms | {sent['bytes'] / 1e6:.0f} MB in {sent['count']} " in row
    for link in links:
        assert f"| {link['communication_ms']:.1f} ms, {100 * link['efficiency']:.0f} % |" in row


def test_what_tpus_are_expected_to_do_is_the_files():
    """Every step of every preset has been compiled for eight chips, and has its row."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "tpu_compiled.json").read_text())["rows"]
    page = (ROOT / "docs" / "many_gpus.md").read_text()
    compiled = {name.removesuffix(" v5e:2x4") for name in rows if name.endswith(" v5e:2x4")}
    assert compiled == {f"{task} {preset}" for task in ("sfera", "contours", "gaugan")
                        for preset in ("large", "paper", "small", "tiny")} - {"contours paper"}
    names = {"sfera": "SFERA", "contours": "contours", "gaugan": "GauGAN"}
    for name in compiled:
        row, (task, preset) = rows[f"{name} v5e:2x4"], name.split()
        (sent,), memory_gib = row["collectives"].values(), row["arguments_gib"] + row["temporaries_gib"]
        assert " | ".join([
            f"| {names[task]} `{preset}`", row["dtype"], str(row["batch_a_chip"]), f"{row['gflop']:,.1f}",
            f"{memory_gib:.2f} GiB", f"{row['estimate_ms']:.1f} ms",
            f"{sent['bytes'] / 1e6:.2f} MB in {sent['count']} |"]) in page
    many = [name for name in rows if name.endswith(" v5e:8x8")]
    assert len(many) == 3
    for name in many:
        assert rows[name]["collectives"] == rows[name.replace("8x8", "2x4")]["collectives"]
    estimates = ", ".join(f"{rows[f'{task} large v5e:8x8']['estimate_ms']:.0f}" for task in names)
    assert f"large` on 64 chips: {estimates} ms" in page.replace("\n", " ")


def test_what_people_call_and_input_are_the_files():
    page = (ROOT / "docs" / "speed.md").read_text().replace("\n", " ")

    def read(name: str) -> dict:
        return json.loads((ROOT / "benchmarks" / "results" / f"bench_{name}.json").read_text())

    ms = [next(r["value"] for r in read(f"{name}_whole")["rows"] if r["what"].endswith(" call"))
          for name in ("generate", "predict_latency", "predict", "predict_contours")]
    assert (f"take {ms[0] / 1000:.3f} s, predictions of one study by SFERA {ms[1]:.1f} ms, of 8 studies {ms[2]:.0f} "
            f"ms, by contours {ms[3] / 1000:.2f} s.") in page
    sizes = [f"{r['value']:.3g}" if r["value"] >= 100 else f"{r['value']:.1f}" for r in read("predict_sizes")["rows"]
             if r["what"].endswith(" call")]
    assert ("takes {} ms for one study, {} for 2, {} for 4, {} for 8, {} for 16 and {} for 32".format(*sizes)) in page
    contours, gaugan, sfera = (read(f"loop_{task}")["input_share"]["float32"]
                               for task in ("contours", "gaugan", "sfera"))
    assert f"takes {contours / (1 - contours):.0%} longer".replace("%", " %") in page
    assert f"and {gaugan / (1 - gaugan):.0%} for the GauGAN".replace("%", " %") in page
    assert sfera <= 0


def test_what_painting_both_phases_brings_is_the_file():
    found = json.loads((ROOT / "benchmarks" / "results" / "phases_acdc.json").read_text())
    page = (ROOT / "docs" / "synthesis.md").read_text()
    for name, key in (("real images", "real"), ("`--phases 1`", "phases_1"), ("`--phases 2`", "phases_2")):
        x = found[key]
        dice = " / ".join(f"{x[f'dice_{label}']:.3f}"[1:] for label in ("LV", "myocardium", "RV"))
        edv, esv = (f"{x[m]['rmse']:.1f} ({x[m]['bias']:+.1f})" for m in ("edv", "esv"))
        alone = ", ".join(f"{x['sso_on_real'][m]['rmse']:.1f}" for m in ("edv", "esv", "ef")) if key != "real" else ""
        assert (f"| {name} | {x['background_change']:.3f} | {x['slice_change']:.3f} | {dice} | {edv} | {esv} | "
                f"{x['ef']['rmse']:.1f} | {alone} |".replace("|  |", "| |")) in page
    assert [round(found[f"phases_{p}"]["ef"]["bias"]) for p in (1, 2)] == [2, -6]


def test_what_contours_teach_a_generator_is_the_files():
    found = json.loads((ROOT / "benchmarks" / "results" / "gaugan_contours_loss.json").read_text())
    page = (ROOT / "docs" / "synthesis.md").read_text()
    for name, x in (("real images", found["masks_found_in_real"]),
                    ("synthetic", found["plain"]["masks_found_in_synthetic"]),
                    ("synthetic, taught by contours", found["taught"]["masks_found_in_synthetic"]),
                    ("a cohort of 96, synthetic", found["plain"]["cohort"]),
                    ("a cohort of 96, taught by contours", found["taught"]["cohort"])):
        edv, esv, ef = (x[amount] for amount in ("edv", "esv", "ef"))
        assert f"| {name} | {edv['rmse']:.1f} ({edv['bias']:+.1f}) | {esv['rmse']:.1f} ({esv['bias']:+.1f}) | " \
               f"{ef['rmse']:.1f} |" in page
    by_sfera = (found[which]["by_sfera"]["volume_fidelity"]["edv"]["bias"] for which in ("taught", "plain"))
    assert "{:.0f} ml too large at ED\n({:.0f} without)".format(*by_sfera) in page
