"""What a run was measured on."""
import os
import platform
import time


def facts():
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": first_of("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": first_of("/etc/os-release", "PRETTY_NAME"),
        "kernel": platform.release(),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def first_of(path, key):
    with open(path) as file:
        for line in file:
            if line.startswith(key):
                return line.split("=" if "=" in line else ":", 1)[1].strip().strip('"')
    return "unknown"


def sentence(facts):
    """The first line below a table."""
    return ("Measured {date} on {cpu}, {cores} cores, {memory_gib} GiB, {system}, kernel {kernel}, load average before the run "
            "{load}").format(**facts)
