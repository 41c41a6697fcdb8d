"""Documents that the tests make: good ones, damaged ones, and ones that are built to do harm."""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from docx import Document
from PIL import Image, ImageDraw
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

MIB = 1024**2


def text_pdf(path: Path, *pages: Sequence[str], password: str = "") -> Path:
    """A PDF of these lines; one with a password asks for it."""
    canvas = Canvas(str(path), pagesize=A4, encrypt=StandardEncryption(password, canPrint=0) if password else None)
    for lines in pages:
        text = canvas.beginText(60, 780)
        for line in lines:
            text.textLine(line)
        canvas.drawText(text)
        canvas.showPage()
    canvas.save()
    return path


def scanned_pdf(path: Path, pages: int, *, with_text: Sequence[int] = ()) -> Path:
    """Pages that are pictures of writing; those in `with_text` have text as well."""
    picture = Image.new("L", (800, 1100), 255)
    ImageDraw.Draw(picture).text((100, 100), "Total assets 1,234", fill=0, font_size=40)
    canvas = Canvas(str(path), pagesize=A4)
    for number in range(1, pages + 1):
        canvas.drawImage(ImageReader(picture), 0, 0, *A4)
        if number in with_text:
            canvas.drawString(60, 60, f"Page {number} has text")
        canvas.showPage()
    canvas.save()
    return path


def raw_pdf(path: Path, objects: Mapping[int, bytes], *, size: int | None = None) -> Path:
    """A PDF of these objects, the first of which is its catalog. `size`: what its cross-reference claims."""
    written, offsets = bytearray(b"%PDF-1.7\n"), dict[int, int]()
    for number, content in objects.items():
        offsets[number] = len(written)
        written += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    begin, count = len(written), size or max(objects) + 1
    written += b"xref\n0 %d\n0000000000 65535 f \n" % count
    for number in range(1, max(objects) + 1):
        written += b"%010d 00000 n \n" % offsets.get(number, 0)
    written += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, begin)
    path.write_bytes(written)
    return path


def stream(content: bytes, filters: str = "/FlateDecode") -> bytes:
    """A stream object of content that is packed already."""
    return b"<< /Length %d /Filter [%s] >>\nstream\n%s\nendstream" % (len(content), filters.encode(), content)


def pages_pdf(path: Path, pages: int, content: bytes) -> Path:
    """Any number of pages that share one content stream."""
    kids = b" ".join(b"%d 0 R" % (5 + number) for number in range(pages))
    page = b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
    return raw_pdf(
        path,
        {
            1: b"<< /Type /Catalog /Pages 2 0 R >>",
            2: b"<< /Type /Pages /Count %d /MediaBox [0 0 595 842] /Kids [%s] >>" % (pages, kids),
            3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            4: content,
            **{5 + number: page for number in range(pages)},
        },
    )


def zeros(size: int) -> bytes:
    """Deflated zeros, a thousandth of their size: one packed MiB, over and over, and the checksum of them all."""
    packer = zlib.compressobj(9)
    first, again = (packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    checksum = (size % 65_521) << 16 | 1  # Adler-32 of so many zeros
    return first + again * (size // MIB - 1) + b"\x03\x00" + checksum.to_bytes(4, "big")


def docx(path: Path, *paragraphs: str) -> Path:
    """A Word document of these paragraphs."""
    document = Document()
    for text in paragraphs:
        document.add_paragraph(text)
    document.save(str(path))
    return path


def with_members(path: Path, members: Mapping[str, bytes | None], *, more: int = 0) -> Path:
    """Replace or add members of an Office file; `more` small ones besides. None removes a member."""
    written = io.BytesIO()
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as made:
        for name in given.namelist():
            if name not in members:
                made.writestr(name, given.read(name))
        for name, content in members.items():
            if content is not None:
                made.writestr(name, content)
        for number in range(more):
            made.writestr(f"word/media/{number}.txt", b"")
    path.write_bytes(written.getvalue())
    return path
