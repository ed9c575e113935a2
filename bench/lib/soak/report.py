"""What a soak prints at its end."""
import os

GROWTH_KIB = 32 << 10       # what the process may hold more at the end than when the load had begun: allocators keep some
LEAK_KIB = 8 << 10          # and more than at half-time, when everything has happened once
MORE_FILES, MORE_THREADS = 40, 12


def has_given_back(run):
    """Whether the descriptors that the load took are closed: an idle connection may stay for `keep_alive`."""
    return run.vitals[-1][2] - run.vitals[0][2] <= MORE_FILES


def judge_vitals(book, run):
    """What was taken must have been given back."""
    _, resident, files, threads = run.vitals[0]
    _, resident_now, files_now, threads_now = run.vitals[-1]
    if resident_now - resident > GROWTH_KIB:
        book.ours("memory", f"{resident} KiB before the faults, {resident_now} KiB after")
    half = run.vitals[len(run.vitals) // 2][1]
    if len(run.vitals) > 300 and resident_now - half > LEAK_KIB:
        book.ours("memory", f"{half} KiB at half-time, {resident_now} KiB at the end")
    if files_now - files > MORE_FILES:
        book.ours("descriptors", f"{files} before the faults, {files_now} after")
    if threads_now - threads > MORE_THREADS:
        book.ours("threads", f"{threads} before the faults, {threads_now} after")


def at(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))] * 1000 if sorted_values else float("nan")


def rows(title, pairs):
    width = max((len(name) for name, _ in pairs), default=0)
    return [title] + [f"  {name:{width}}  {value}" for name, value in pairs]


def recoveries(book, issuer_list):
    longest = {}
    for issuer in issuer_list:
        for trouble in book.troubles[issuer.name]:
            if trouble.last_failure is not None:
                longest[trouble.kind] = max(longest.get(trouble.kind, (0, 0)), (trouble.last_failure, trouble.grace))
    return [(kind, f"{last:.2f} s after its end (bound {grace:g} s)") for kind, (last, grace) in sorted(longest.items())]


def table(options, tools, book, run, load, trouble, tally, issuer_list):
    latencies = sorted(tally.latencies)
    resident, files, threads = ([vital[i] for vital in run.vitals] for i in (1, 2, 3))
    out = [f"bench/soak --rate {options.rate:g} --minutes {options.minutes:g} --seed {options.seed} --every {options.every:g} "
           f"--slack {options.slack:g}", f"{tools.version('bearerd')}, {len(os.sched_getaffinity(0))} cores, "
           f"load average {os.getloadavg()[0]:.1f}; this program was held up for {book.worst_lag:.2f} s at worst, "
           f"for {book.time_lost:.0f} s in all by more than a second", ""]
    out += rows("requests", [("sent", tally.requests), ("as asked for", tally.good),
                             ("explained by a fault", tally.requests - tally.good - tally.lost - tally.unjudged),
                             ("not judged, the machine was too busy", tally.unjudged),
                             ("lost that need not be lost", tally.lost)])
    out += [""] + rows(f"faults: {sum(book.faults.values())}", sorted(book.faults.items()))
    out += [""] + rows("failures", sorted((f"{code}, {whose}: {why}", count) for (code, whose, why), count
                                          in tally.failures.items()))
    out += [""] + rows("the last failure after an issuer's trouble", recoveries(book, issuer_list))
    out += [""] + rows("the process", [
        ("memory (RSS)", f"{resident[0] / 1024:.1f} MiB before the faults, at most {max(resident) / 1024:.1f}, "
         f"{resident[-1] / 1024:.1f} at the end"),
        ("descriptors", f"{files[0]}, at most {max(files)}, {files[-1]}"),
        ("threads", f"{threads[0]}, at most {max(threads)}, {threads[-1]}"),
        ("undisturbed requests", f"p50 {at(latencies, .5):.1f} ms, p99 {at(latencies, .99):.1f} ms, longest {at(latencies, 1):.0f} ms "
         f"({len(latencies)}, this program's own time included)"),
        ("token requests", ", ".join(f"{issuer.name} {issuer.requests}" for issuer in issuer_list)),
        ("longest until a changed config served", f"{trouble.longest_reload:.2f} s"),
        ("log", f"{run.log.lines} lines, {run.log.bytes >> 20} MiB, searched for secrets as all responses were")])
    out += ["", "not done: jumps of the wall clock (they need privileges; token::tests has them), DNS (everything is on 127.0.0.1)"]
    if not load.curl:
        out += ["not done: callers over HTTP/2 (no curl)"]
    if trouble.nginx is None:
        out += ["not done: upstreams over HTTP/2 and TLS (no nginx)"]
    if book.finding_kinds:
        out += [""] + rows("OURS", sorted(book.finding_kinds.items())) + book.findings
    return "\n".join(out + ["", "nothing is ours" if not book.finding_kinds else "NOT GOOD: see OURS"])
