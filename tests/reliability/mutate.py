"""Damage to files, drawn from a seed: what a bad disk, a bad line and a bad person do."""

import io
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence

Repair = Callable[[bytes, random.Random], bytes]

_EXTREMES = (
    0,
    1,
    -1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 62,
    -(1 << 63),
)
_LONGEST = 1 << 22  # bytes of a file
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TOKENS = (
    *(b"0", b"-1", b"1e999", b"-1e999", b"1e-999", b"nan", b"NaN", b"inf", b"Infinity", b"2147483648", b"1e18"),
    *(b"9" * 400, b"9" * 5000, b"1_0", b"\xc2\xb2", b"true", b"null", b"None", b"", b" ", b"\t", b"\n", b"\r", b"\x00"),
    *(b"[]", b"{}", b"[[[[", b"]", b"}", b"[" * 100_000, b'{"a":' * 100_000, b'"', b"'", b",", b";", b"&a *a", b"|"),
    *(b"<", b">", b"<a>" * 50_000, b"&lt;", b"&x;", b"]]>", b"<![CDATA[", b"<?xml version='1.0' encoding='utf-16'?>"),
    b'<!DOCTYPE a [<!ENTITY x "yy"><!ENTITY y SYSTEM "file:///etc/passwd">]>',
    *(b"../../../etc/passwd", b"/etc/passwd", b"..", b".", b"~", b"C:\\a", b"a/../../b", b"%s%n", b"$(id)", b"`id`"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\x1b[2J", b"\xe2\x80\xa8", b"\x85"),
    *(b"2001-99-99", b"!!python/object/apply:os.system ['id']", b"!!binary x", b"<<: *a", b"? :", b"---", b"%YAML 9.9"),
)  # fmt: skip


def mutate(seeds: Sequence[bytes], rng: random.Random, *, text: bool = False, repair: Repair | None = None) -> bytes:
    """One of the valid files with one to four changes; `repair` then puts its checksums right, half of the time."""
    data = rng.choice(seeds)
    if repair is not None and rng.random() < 0.5:
        return repair(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = change(data, seeds, rng, text)[:_LONGEST]
    return data


def change(data: bytes, seeds: Sequence[bytes], rng: random.Random, text: bool = False) -> bytes:
    """The data with one change of a kind drawn at random."""
    kinds = (_flip, _cut, _copy, _insert, _delete, _extreme, _extreme, _splice, _scramble)
    if text:
        kinds = (*kinds, *(_number, _token, _lines) * 4)
    return rng.choice(kinds)(data, seeds, rng) if data else b"\x00"


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(start + int(2 ** rng.uniform(0, 10)), len(data))


def _flip(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _copy(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    (start, stop), to = _span(data, rng), rng.randrange(len(data))
    return data[:to] + data[start:stop] + data[to + stop - start :]


def _insert(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    (start, stop), to = _span(data, rng), rng.randrange(len(data))
    return data[:to] + data[start:stop] * rng.choice((1, 1, 2, 30)) + data[to:]


def _delete(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _extreme(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    size, value = rng.choice((1, 2, 4, 8)), rng.choice(_EXTREMES)
    number = (value % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
    to = rng.randrange(len(data))
    return data[:to] + number + data[to + size :]


def _splice(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _scramble(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def _number(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    place = rng.choice(found)
    return data[: place.start()] + rng.choice(_TOKENS) + data[place.end() :]


def _token(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    to = rng.randrange(len(data) + 1)
    return data[:to] + rng.choice(_TOKENS) + data[to + rng.choice((0, 0, 1, 4)) :]


def _lines(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    many = min(2000, _LONGEST // len(lines[at]) + 1)  # `mutate` cuts what is longer
    lines[at : at + 1] = rng.choice(([], lines[at : at + 1] * 3, lines[at : at + 1] * many, [lines[at].strip()]))
    return b"".join(lines)


def in_zip(data: bytes, rng: random.Random) -> bytes:
    """A zip archive with one member changed, or renamed, or there twice, and all checksums right."""
    source = zipfile.ZipFile(io.BytesIO(data))
    members = {info.filename: source.read(info) for info in source.infolist()}
    name = rng.choice(list(members))
    at = rng.random()
    if at < 0.85:
        content = members[name]
        for _ in range(rng.choice((1, 1, 2, 4))):
            content = change(content, list(members.values()), rng)
        members[name] = content
    elif at < 0.9:
        del members[name]
    else:
        members[rng.choice(("../x", "/x", "a/data.pkl", name + ".npy", "x", "a/"))] = members.pop(name)
    target = io.BytesIO()
    with zipfile.ZipFile(
        target, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as file:
        for member, content in members.items():
            file.writestr(member, content)
    return target.getvalue()


def in_png(data: bytes, rng: random.Random) -> bytes:
    """A PNG with some parts changed, each with a right checksum; the pixels packed anew."""
    parts, position = [], 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        parts.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    at = rng.randrange(len(parts))
    kind, body = parts[at]
    if kind == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(change(zlib.decompress(body), [body], rng))
    else:
        body = change(body, [body], rng) if body else b"a"
    choices = ([(kind, body)], [(kind, body)], [(kind, body)] * 2, [(rng.randbytes(4), body)], [])
    parts[at : at + 1] = rng.choice(choices)
    made = data[:8]
    for kind, body in parts:
        made += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return made


def in_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with its header changed as text, of the length that is stated."""
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length], [data[8 : 8 + length]], rng, text=True)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def in_tar(data: bytes, rng: random.Random) -> bytes:
    """A tar archive with a member of another name or kind, or one with a header changed and a right checksum."""
    if rng.random() < 0.5:
        source = tarfile.open(fileobj=io.BytesIO(data))  # noqa: SIM115
        target = io.BytesIO()
        members = source.getmembers()
        chosen = rng.choice(members)
        with tarfile.open(
            fileobj=target, mode="w", format=rng.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT))
        ) as file:
            for member in members:
                content = source.extractfile(member) if member.isfile() else None
                if member is chosen:
                    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
                    if rng.random() < 0.7:
                        member.type = rng.choice(kinds)
                    member.linkname = rng.choice(("../../../out", "/tmp/out", "a", member.name, "../x"))
                    if rng.random() < 0.7:
                        prefix = rng.choice(("../", "/", "../../", "a/../../", "./", "//", ""))
                        member.name = prefix + member.name
                    member.mode = rng.choice((0o644, 0o7777, 0))
                    member.size = 0 if not member.isfile() else member.size
                file.addfile(member, content if member.isfile() else None)
        return target.getvalue()
    at = rng.randrange(len(data) // 512) * 512
    header = bytearray(change(data[at : at + 512], [data], rng)[:512].ljust(512, b"\0"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]
