"""An experiment's results in words, from its statistics alone."""

from collections.abc import Sequence

from cardiojax.experiment.comparison import BASELINE, LONG, PRETRAINED, WARPED

SAID = {"better": "helped", "worse": "harmed", "not decided": "neither helped nor harmed beyond chance: not decided"}
SHOWN = {"better": "is shown to help", "worse": "is shown to harm", "not decided": "is not shown to matter"}


def finished(counts: Sequence[int], wanted: int) -> str:
    """How many seeds there are of those wanted, of each training: "2 of 3 seeds", "1 to 3 of 3 seeds"."""
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} of {wanted} seed{'s' if wanted > 1 else ''}"


def primary(endpoint: dict) -> str:
    """The primary endpoint, and what was found of it."""
    named = f"RMSE of EF on the test studies of {endpoint['dataset']}, {PRETRAINED} over {LONG} (equal updates)"
    if endpoint["result"] is None:
        return f"Primary endpoint: {named}. Not both have been trained yet."
    found = endpoint["result"]
    return (f"Primary endpoint: {named}: ratio {interval(found)} over {seeds(found['seeds'])}. "
            f"Pretraining on the synthetic cohort {SAID[found['verdict']]}.")


def verdict(dataset: str, found: dict, masks_own: dict) -> str:
    """All that was compared on one dataset."""
    rsp = found.get(PRETRAINED, {})
    if "against" not in rsp:
        return f"{dataset}: {PRETRAINED} and {LONG} have not both been trained yet."
    long, against = found[LONG], rsp["against"]
    words = [f"{dataset}: with equal updates, pretraining on the synthetic cohort {SAID[against['ef']['verdict']]}.",
             f"RMSE of EF {long['summary']['ef']['rmse']:.1f} points without it ({LONG}) and "
             f"{rsp['summary']['ef']['rmse']:.1f} with it ({PRETRAINED}),",
             f"ratio {interval(against['ef'])} over {seeds(against['seeds'])} and {rsp['summary']['n']} test studies",
             f"(Kruskal–Wallis p {p_value(against['ef']['kruskal_p'])}, Wilcoxon p "
             f"{p_value(against['ef']['wilcoxon_p'])})."]
    for k in ("edv", "esv"):
        words.append(f"{k.upper()}: ratio {interval(against[k])}, {against[k]['verdict']}.")
    if low := against.get("ef_below_40"):
        words.append(f"EF on the {low['n']} studies below 40 %: ratio {interval(low)}, {low['verdict']}.")
    if extra := rsp.get("against_extra"):
        words.append(f"Against {BASELINE}, which has {found[BASELINE]['updates']:,} updates where {PRETRAINED} has "
                     f"{rsp['updates']:,}: ratio of EF {interval(extra['ef'])}, {extra['ef']['verdict']}.")
    if direct := rsp["against_controls"].get(WARPED):
        words.append(f"Against pretraining on warped real images: ratio of EF {interval(direct['ef'])}, so that the "
                     f"generator {SHOWN[direct['ef']['verdict']]}.")
    if masks_own:
        own = masks_own["fitted"]
        words.append(f"The annotators' own masks, fitted to the training studies' volumes, miss the EF of {own['n']} "
                     f"test studies by {own['ef']['rmse']:.1f} points (RMSE).")
    return " ".join(words)


def seeds(found: list[int]) -> str:
    return f"{len(found)} seed{'s' if len(found) > 1 else ''}"


def interval(m: dict) -> str:
    """Ratio of RMSE with its 95 % interval."""
    low, high = m["rmse_ratio_ci95"]
    return f"{m['rmse_ratio']:.2f} [{low:.2f}, {high:.2f}]"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
