"""From functions that ran to names with `*` that find them in another build as well."""
import bisect
import os.path
import re

# Names of what ran are cut where that takes nothing else with it; never shorter than this, for what other builds have is not known.
SHORT = 20
# Old names do not say which of a generic function's copies they are. A name that takes more bytes than this with it for each
# function that ran is left out: the pages that it would spread the others over are worth more than the one that it saves.
SPREAD = 16 * 1024
# What never ran is in the list where there are as many bytes of it; its name is cut this far behind the first letter that
# tells it from what ran.
WORTH, BEYOND = 1024, 4
# What a linker script takes as one word.
WORD = re.compile(r"[A-Za-z0-9_.$]+\Z")


def outlast(name):
    """A function's name without what another compiler, or another version of a crate, changes in it."""
    name = re.sub(r"\.(llvm\.)?\d+(?=\.|$)", "*", name)                 # copies and parts, by number
    name = re.sub(r"17h[0-9a-f]{16}E", "17h*", name)                    # Rust's old mangling ends in a hash
    if name.startswith("_R"):                                           # its new one has a hash for each crate, and places
        name = re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)                 # in the name itself, which hashes move
        name = re.sub(r"B[0-9A-Za-z]*_", "B*_", name)
        name += "*"
    name = re.sub(r"^aws_lc_\d+_\d+_\d+_", "aws_lc_*_", name)
    return re.sub(r"\*+", "*", name)


def matcher(pattern):
    return re.compile(".*".join(map(re.escape, pattern.split("*"))) + r"\Z")


class Functions:
    """Those of a program, found by name."""

    def __init__(self, sizes):
        self.sizes, self.names = sizes, sorted(sizes)

    def found(self, pattern):
        start = pattern.partition("*")[0]
        match, found = matcher(pattern).match, set()
        for name in self.names[bisect.bisect_left(self.names, start):]:
            if not name.startswith(start):
                break
            if match(name):
                found.add(name)
        return found

    def bytes(self, names):
        return sum(self.sizes[name] for name in names)


def shorter(pattern, functions, own):
    """The pattern's shortest beginning that finds nothing but what is in `own`: the longer it is, the less it finds."""
    least, most = SHORT, len(pattern)
    while least < most:
        length = (least + most) // 2
        if functions.found(pattern[:length] + "*") <= own:
            most = length
        else:
            least = length + 1
    cut = pattern[:least].rstrip("*") + "*"
    return cut if len(cut) < len(pattern) else pattern


def choose(parts, functions):
    """For each part, which is a set of functions that ran, the names that find it. Where two parts find a function, it is the
    first one's; that is how the linker sees it as well."""
    chosen, before = [], set()
    for part in parts:
        by_name = {}
        for function in part:
            if WORD.match(function):
                by_name.setdefault(outlast(function), set()).add(function)
        names = set()
        for name, ran in by_name.items():
            found = functions.found(name)
            if functions.bytes(found - ran - before) <= SPREAD * len(ran):
                names.add(shorter(name, functions, found | part | before))
        one = {name: matcher(name).match for name in names}
        chosen.append({name for name in names
                       if not any(match(name) for other, match in one.items() if other != name and len(other) <= len(name))})
        before |= part
    return chosen


def never(ran, functions):
    """Names of what did not run: beginnings that nothing that ran has."""
    hot = sorted({outlast(name) for name in ran})
    names = {}
    for function in functions.names:
        if function in ran or not WORD.match(function):
            continue
        name = outlast(function)
        at = bisect.bisect_left(hot, name)
        near = hot[max(0, at - 1):at + 1]
        if name not in near:
            cut = max(len(os.path.commonprefix([name, other])) for other in near) + BEYOND
            names.setdefault(name[:cut].rstrip("*") + "*" if cut < len(name) else name, set()).add(function)
    return {name for name, own in names.items() if functions.bytes(own) >= WORTH and not functions.found(name) & ran}
