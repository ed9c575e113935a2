"""From samples to ratios and from ratios to a table."""
import statistics

import machine
import rows

OURS = "bearerd"


def paired(results, line, peer):
    """Ratios bearerd / peer of the turns in which both were measured."""
    by_peer = results["samples"].get(line.job, {})
    ours, theirs = by_peer.get(OURS, {}), by_peer.get(peer, {})
    return [ours[turn][line.key] / theirs[turn][line.key] for turn in ours
            if turn in theirs and theirs[turn].get(line.key)]


def values(results, line, peer):
    return [sample[line.key] for sample in results["samples"].get(line.job, {}).get(peer, {}).values()]


def number(value):
    if value >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def why(results, line, peer):
    """Why there is no value, in a word or two."""
    reason = results["failures"].get(f"{line.job} {peer}")
    if reason is None:
        return "failed" if f"{line.job} {peer}" in results["faults"] else "-"
    return reason if reason.startswith(("missing", "cannot")) else "failed"


def cell(results, line, peer):
    seen = values(results, line, peer)
    if f"{line.job} {peer}" in results["failures"] or not seen:
        return why(results, line, peer)
    return number(statistics.median(seen))


def verdicts(results, line):
    """(what, target, measured or None, met or None) for each target of a line; without a target, what was measured."""
    out = []
    sound = f"{line.job} {OURS}" not in results["failures"]
    for peer, target in (("envoy", line.envoy), ("haproxy", line.haproxy), ("nginx", None)):
        ratios = paired(results, line, peer) if sound and f"{line.job} {peer}" not in results["failures"] else []
        measured = statistics.median(ratios) if ratios and not line.own else None
        out.append((peer, target, measured, spread(ratios), met(measured, target)))
    if line.limit is not None:
        seen = values(results, line, OURS) if sound else []
        measured = statistics.median(seen) if seen else None
        out.append((OURS, line.limit, measured, spread(seen), met(measured, line.limit)))
    return out


def met(measured, target):
    """A ratio is compared as it is shown, with two digits behind the point (limits of system calls, too)."""
    return None if measured is None or target is None else round(measured, 2) <= target


def spread(seen):
    return (min(seen), max(seen)) if seen else None


def chosen(results):
    return [line for line in rows.LINES if line.job in results["jobs"]]


def ratio_text(entry, target_too=True):
    _, target, measured, _, good = entry
    if measured is None:
        return "not measured" if target is not None and target_too else ""
    text = f"{measured:.3f}"
    if target is not None and target_too:
        text += f" ({'met' if good else 'NOT MET'}: {target:g})"
    return text


def table(results):
    """The table as lists of texts, the first one its head."""
    peers = results["peers"]
    head = ["", "unit", *peers] + [f"/ {peer}" for peer in ("envoy", "haproxy", "nginx") if peer in peers] + ["own limit"]
    out = [head]
    for line in chosen(results):
        by_peer = {entry[0]: entry for entry in verdicts(results, line)}
        out.append([line.title, line.unit] + [cell(results, line, peer) for peer in peers]
                   + [ratio_text(by_peer[peer]) for peer in ("envoy", "haproxy", "nginx") if peer in peers]
                   + [ratio_text(by_peer[OURS]) if OURS in by_peer else ""])
    return out


def plain(results):
    lines = table(results)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    out = []
    for line in lines:
        out.append("  ".join(text.ljust(width) if i == 0 else text.rjust(width)
                             for i, (text, width) in enumerate(zip(line, widths))).rstrip())
    out.insert(1, "-" * len(out[0]))
    out += ["", "/ peer: median of paired ratios of bearerd to it (and the target, the most it may be)."]
    out += asides(results)
    return "\n".join(out + ["", summary(results)])


def summary(results):
    entries = [(line, entry) for line in chosen(results) for entry in verdicts(results, line)
               if entry[1] is not None and (entry[0] == OURS or entry[0] in results["peers"])]
    out = [f"targets: {sum(e[4] is True for _, e in entries)} met, {sum(e[4] is False for _, e in entries)} not met, "
           f"{sum(e[4] is None for _, e in entries)} not measured"]
    for line, (peer, target, measured, extremes, good) in entries:
        if good is False:
            against = "own" if peer == OURS else f"against {peer}"
            out.append(f"  not met, {against}: {line.title}: {measured:.3f} (turns: {extremes[0]:.3f} to {extremes[1]:.3f}), "
                       f"target {target:g}")
    return "\n".join(out)


def asides(results):
    """What a table has no room for."""
    out = []
    for job in results["jobs"]:
        for peer in results["peers"]:
            reason = results["failures"].get(f"{job} {peer}")
            faults = results["faults"].get(f"{job} {peer}", [])
            if faults:
                out.append(f"{job}, {peer}: {len(faults)} turn{'s' if len(faults) > 1 else ''} failed, {faults[-1]}")
            if reason and reason != "cannot" and reason not in faults:
                out.append(f"{job}, {peer}: {reason}")
    for job in ("syscalls", "syscalls-2000"):
        for peer in results["peers"]:
            for sample in list(results["samples"].get(job, {}).get(peer, {}).values())[-1:]:
                most = ", ".join(f"{name} {count:.2f}" for name, count in list(sample["by_name"].items())[:8])
                out.append(f"{job}, {peer}, by {sample['tool']}: {most}")
    for peer, turns in results["samples"].get("binary", {}).items():
        shared = next(iter(turns.values()))["shared_libraries"]
        out.append(f"binary, {peer}: {shared or 'no'} shared libraries beside it")
    if seen := results["samples"].get("routes"):
        for peer, turns in seen.items():
            few, many = (statistics.median(turn[key] for turn in turns.values()) for key in ("few", "many"))
            out.append(f"routes, {peer}: {few:.1f} µs with 10, {many:.1f} µs with 10,000")
    return out


def markdown(results):
    facts = results["machine"]
    out = [f"{machine.sentence(facts)}; {results['rounds']} "
           f"round{'s' if results['rounds'] != 1 else ''}{'' if results['scale'] == 1 else ', scale ' + format(results['scale'], 'g')}, by",
           "", f"    {results['command']}", "", "Versions: " + "; ".join(facts["versions"]) + ".", ""]
    lines = table(results)
    out.append("| " + " | ".join(lines[0]) + " |")
    out.append("|---|---|" + "---:|" * (len(lines[0]) - 2))
    out += ["| " + " | ".join(line).replace("NOT MET", "**not met**") + " |" for line in lines[1:]]
    if extra := asides(results):
        out += ["", *(f"- {text}" for text in extra)]
    return "\n".join(out + ["", summary(results).replace("\n  ", "\n- ").replace("\n- ", "\n\n- ", 1)])
