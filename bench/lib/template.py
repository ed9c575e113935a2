"""The config templates of bench/peers.

`@{name}` is replaced by a value. A line that starts with `{flag}`, `{!flag}` or `{one !other}` is kept where all of that
holds. Lines that start with `{each}` are written once for each route, with `@{i}` counting from 0; several in a row make
one block.
"""
import re

GUARD = re.compile(r"\{([!\w ]+)\} ?(.*)")
VALUE = re.compile(r"@\{(\w+)\}")


def fill(text, values):
    return VALUE.sub(lambda found: str(values[found[1]]), text)


def render(text, flags, values, routes=0):
    out, block = [], []

    def repeat():
        for i in range(routes):
            out.extend(fill(line, {**values, "i": i}) for line in block)
        block.clear()

    for line in text.splitlines():
        guard = GUARD.fullmatch(line)
        wanted = guard[1].split() if guard else []
        if wanted == ["each"]:
            block.append(guard[2])
            continue
        repeat()
        if all((word[1:] not in flags) if word.startswith("!") else (word in flags) for word in wanted):
            out.append(fill(guard[2] if guard else line, values))
    repeat()
    return "\n".join(out) + "\n"
