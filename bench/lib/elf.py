"""The functions of a program: their names as the linker saw them, and their sizes."""
import struct

from procs import Failed

SYMTAB, FUNCTION = 2, 2


def functions(path):
    """name: bytes, from the symbol table of a 64-bit little-endian ELF file. Local functions may share a name: sizes add up."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:6] != b"\x7fELF\x02\x01":
        raise Failed(f"{path} is no 64-bit little-endian ELF file")
    start, = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
    found = {}
    for _, kind, _, _, offset, length, link, _, _, each in sections:
        if kind != SYMTAB:
            continue
        names = sections[link][4]
        for at in range(offset, offset + length, each):
            name, info, _, section, _, many = struct.unpack_from("<IBBHQQ", data, at)
            if info & 15 == FUNCTION and section:
                text = data[names + name:data.index(b"\0", names + name)].decode("ascii", "replace")
                found[text] = found.get(text, 0) + many
    if not found:
        raise Failed(f"{path} has no symbols: build it with --config 'profile.release.strip=false'")
    return found
